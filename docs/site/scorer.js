// How the site's search ranks: as Sphinx does by itself, but what is about the project rather than its use comes last.
const ABOUT_THE_PROJECT = ["CHANGELOG", "CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT", "results/README", "tests/hostile/README"];

var Scorer = {
  score: ([page, , , , score]) => (ABOUT_THE_PROJECT.includes(page) ? score - 1000 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

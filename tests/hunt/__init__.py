"""The hunt for programs that exact m-SAM gets wrong: random programs, a judge, a shrinker."""

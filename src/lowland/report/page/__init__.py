"""The page for a browser: one HTML file made from run and sweep directories alone."""

from lowland.report.page.rendering import write_page
from lowland.report.page.shown import ShownDirectory
from lowland.report.page.watching import watch

__all__ = ["ShownDirectory", "watch", "write_page"]

"""From matplotlib to SVG that may stand many times in one page: small, themed, free of clashes.

Everything grey or black is drawn in `INK`, which becomes `currentColor`, so that figures follow
the page into dark mode and onto paper. Text stays text. Sizes are CSS pixels at natural size.
Each drawing can be had as files too, for a paper: an SVG that stands alone, and a PDF.
"""

import dataclasses
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

INK = "#010203"  # stands for the page's own text colour; drawn by nothing else
FONT = 10.5
# Okabe & Ito 2008, "Color Universal Design"; their black is the page's ink, their yellow comes
# last because it is weak on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK, "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ((), (5, 1.5), (2, 1.2), (6, 1.5, 1.5, 1.5), (8, 2), (3.5, 1.2, 1, 1.2), (1, 1))
SETTINGS = {
  "svg.fonttype": "none",
  "text.parse_math": False,  # a dollar in a title is a dollar
  "font.family": ["sans-serif"],
  "font.sans-serif": ["DejaVu Sans"],
  "font.size": FONT,
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.8,
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.titlesize": FONT,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titlecolor": INK,
  "grid.color": INK,
  "grid.alpha": 0.13,
  "grid.linewidth": 0.7,
  "text.color": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "xtick.minor.size": 0,
  "ytick.minor.size": 0,
  "lines.linewidth": 1.6,
  "lines.markersize": 5,
  "lines.markeredgewidth": 0,
}
SVG = "{http://www.w3.org/2000/svg}"
ALONE = "color: #1c1e22; background: #fff; font-family: system-ui, sans-serif"


@dataclasses.dataclass(frozen=True)
class Style:
  """How one architecture looks through the whole page."""

  colour: str
  marker: str
  dash: tuple[float, ...]

  @property
  def line(self) -> dict:
    """Arguments of a line in this style."""
    return {"color": self.colour, "linestyle": (0, self.dash) if self.dash else "-"}


class Drawing(str):
  """An <svg> element for a page, which still knows what it was drawn from.

  Attributes:
    name: unique in its page.
    figure: matplotlib's.
  """

  name: str
  figure: Figure

  def write(self, folder: Path) -> None:
    """Writes <name>.svg and <name>.pdf, in dark ink on white and on nothing."""
    width, height = self.figure.bbox.size
    opening = f'<svg xmlns="{SVG[1:-1]}" width="{width:g}" height="{height:g}" '
    text = self.replace("<svg ", opening, 1).replace('style="', f'style="{ALONE}; ', 1)
    (folder / f"{self.name}.svg").write_text(text + "\n", encoding="utf-8")
    with matplotlib.rc_context(SETTINGS):
      self.figure.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})


def styles(names: list[str]) -> dict[str, Style]:
  """One style a name, in the order given. Past eight, colours return with other dashes."""
  return {
    name: Style(
      COLOURS[i % len(COLOURS)],
      MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
      DASHES[i % len(DASHES)],
    )
    for i, name in enumerate(names)
  }


@contextmanager
def panel(width: float, height: float, **margins: float) -> Iterator[Axes]:
  """Axes of one panel; `margins` are the pixels left, right, bottom and top of the plot."""
  with matplotlib.rc_context(SETTINGS):
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    axes = figure.add_axes(
      (
        margins["left"] / width,
        margins["bottom"] / height,
        1 - (margins["left"] + margins["right"]) / width,
        1 - (margins["bottom"] + margins["top"]) / height,
      )
    )
    axes.patch.set_visible(False)
    yield axes


def render(axes: Axes, name: str, label: str) -> Drawing:
  """The axes' figure as an <svg> element.

  Args:
    axes: made by `panel`.
    name: unique in the page; prefix of all ids.
    label: what the picture shows, for those who do not see it.
  """
  target = io.StringIO()
  with matplotlib.rc_context(SETTINGS | {"svg.hashsalt": name}):
    # "Creator" and the rest are dropped: the page names its versions once.
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    axes.figure.savefig(target, format="svg", metadata=metadata)
  root = ElementTree.fromstring(target.getvalue())
  _clean(root, name)
  root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": label}
  root.set("style", "stroke-linejoin: round")
  drawing = Drawing(re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode")))
  drawing.name, drawing.figure = name, axes.figure
  return drawing


def _clean(root: ElementTree.Element, name: str) -> None:
  """Drops metadata and the page-wide style, makes ids unique, colours themed, numbers short."""
  for parent in root.iter():
    for child in list(parent):
      if child.tag in (SVG + "metadata", SVG + "style"):
        parent.remove(child)
  used = set(re.findall(r"#([pm][0-9a-f]{8,})", ElementTree.tostring(root, encoding="unicode")))
  for element in root.iter():
    element.tag = element.tag.removeprefix(SVG)  # HTML's parser knows svg without a namespace
    old = element.attrib
    identity = old.pop("id", None)
    element.attrib = {key.rpartition("}")[2]: _value(value, name) for key, value in old.items()}
    if identity in used:
      element.set("id", f"{name}-{identity}")


def _value(text: str, name: str) -> str:
  """One attribute's value."""
  text = text.replace(INK, "currentColor")
  text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", text)
  text = re.sub(r"#([pm][0-9a-f]{8,})", rf"#{name}-\1", text)
  text = re.sub(
    r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text
  )
  return re.sub(r"\s+", " ", text).strip()


def key(style: Style, name: str) -> str:
  """A <symbol> of the line and marker, which the page's tables use as `#name`."""
  path = MarkerStyle(style.marker)
  polygons = path.get_path().transformed(path.get_transform()).to_polygons()
  points = " ".join(
    "M" + "L".join(f"{14 + 9 * x:.1f} {6 - 9 * y:.1f}" for x, y in polygon) + "z"
    for polygon in polygons
  )
  colour = "currentColor" if style.colour == INK else style.colour
  dash = " ".join(f"{1.6 * length:g}" for length in style.dash)
  return (
    f'<symbol id="{name}" viewBox="0 0 28 12">'
    f'<path d="M0 6H28" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"/>'
    f'<path d="{points}" fill="{colour}"/></symbol>'
  )

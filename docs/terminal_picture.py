"""Write what `tmux capture-pane -e -p` printed as an SVG file: terminal_picture.py IN OUT TITLE."""

import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

source, out, title = sys.argv[1:]
lines = Path(source).read_text(encoding="utf-8").rstrip().split("\n")
screen = [Text.from_ansi(line.rstrip()) for line in lines]
console = Console(record=True, width=max(map(len, screen)), file=open("/dev/null", "w"))
for line in screen:
    console.print(line, soft_wrap=True)
console.save_svg(out, title=title)

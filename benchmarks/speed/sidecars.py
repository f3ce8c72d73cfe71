"""How long 10,000 sidecars take to get words, to be read into a table and to be undone.

    python -m benchmarks.speed.sidecars [--sidecars 10000] [--quick]

Each image has a sidecar of some 4 KB, with a history as darktable keeps it, ratings and keywords.
Every step is on the disk when it ends. Writes benchmarks/results/sidecars.json.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import write_results
from PIL import Image

from trmml.exchange.keyword_table import read_keywords
from trmml.exchange.sidecars import Job, Manner, write_sidecars
from trmml.exchange.undo import undo
from trmml.exchange.words import Word, fields_of

HISTORY = "".join(
    f'\n     <rdf:li darktable:num="{n}" darktable:params="{"0123456789abcdef" * 8}"/>'
    for n in range(16)
)
SIDECAR = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3"
   xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:darktable="http://darktable.sf.net/">
   <darktable:history><rdf:Seq>{HISTORY}
   </rdf:Seq></darktable:history>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Holiday</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
WORDS = tuple(Word(name, 0.9, "0" * 12) for name in ("beach", "boat", "dog", "sea", "sky"))


def measure(count: int) -> dict[str, float]:
    """Seconds of each step."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        Image.new("RGB", (64, 48)).save(folder / "a.jpg")
        content = (folder / "a.jpg").read_bytes()
        images = [folder / f"{number % 100:02}" / f"{number}.jpg" for number in range(count)]
        for image in images:
            image.parent.mkdir(exist_ok=True)
            image.write_bytes(content)
            image.with_name(f"{image.name}.xmp").write_text(SIDECAR)
        jobs = [Job(image, image.with_name(f"{image.name}.xmp"), folder, WORDS) for image in images]
        manner = Manner(fields_of(("digikam", "darktable", "immich", "photoprism")))
        ledger = folder / "sidecars.jsonl"
        report = write_sidecars([], ledger, manner)
        steps: dict[str, Callable[[], object]] = {
            "merge": lambda: report.written.extend(write_sidecars(jobs, ledger, manner).written),
            "merge again": lambda: write_sidecars(jobs, ledger, manner),
            "read": lambda: read_keywords(images, embedded=True, ledger=ledger),
            "undo": lambda: undo(ledger),
        }
        seconds = {}
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name] = time.perf_counter() - start
        assert len(report.written) == count
        assert all(image.with_name(f"{image.name}.xmp").read_text() == SIDECAR for image in images)
        return seconds


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sidecars", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="a hundred, for a look")
    options = parser.parse_args()
    count = 100 if options.quick else options.sidecars
    seconds = measure(count)
    print("| step | seconds | a second |\n|---|---:|---:|")
    for name, taken in seconds.items():
        print(f"| {name} | {taken:.1f} | {count / taken:.0f} |")
    write_results("sidecars", {"sidecars": count, "seconds": seconds}, quick=options.quick)


if __name__ == "__main__":
    main()

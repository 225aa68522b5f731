"""Write the valid encodings of every target into the corpus: `python -m tests.fuzz.make_corpus`.

What else is there stays: inputs that found something. They are put there by hand, out of build/fuzz/findings, with a name that says
what they found.
"""

from __future__ import annotations

from tests.fuzz.engine import CORPUS, corpus
from tests.fuzz.targets import TARGETS


def main() -> None:
    """Add the seeds that are not there yet, each under its number."""
    for target in TARGETS.values():
        directory = CORPUS / target.name
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("valid-*"):
            old.unlink()
        kept = corpus(target)
        for number, data in enumerate(target.seeds()):
            if data not in kept:
                (directory / f"valid-{number:02d}").write_bytes(data)
                kept.append(data)


if __name__ == "__main__":
    main()

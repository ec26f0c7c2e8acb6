"""make demo: hub, three agents, three releases, on this machine; nothing leaves it.

`--once` ends after the loop; otherwise all goes on until Ctrl-C, for a look at the dashboard.
`--video`, `--model` and `--spec` run a person's own model on their own video instead.
"""

import argparse
import json
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from deploy.demo.own import run_own
from deploy.demo.processes import DemoError
from deploy.demo.story import Story, Teller

FOLDER = Path(".demo")
PORT = 8080


def main() -> int:
    """Run the demo; return the exit code."""
    args = _parse()
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    FOLDER.mkdir()

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)  # Also where the shell that started us had it ignored.
    story = Story(FOLDER.resolve(), Teller(), args.port)
    try:
        figures = run_own(story, args.video, args.model, args.spec) if args.video else story.run()
        print(json.dumps(figures), flush=True)
        if not args.once:
            story.teller.say(f"All is up: {story.api.url} (token above). Ctrl-C ends it.")
            threading.Event().wait()
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # A second Ctrl-C must not leave processes.
        story.processes.stop()
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the loop")
    parser.add_argument("--port", type=int, default=None, help="of the dashboard")
    parser.add_argument("--video", type=Path, help="your own video")
    parser.add_argument("--model", type=Path, help="your own ONNX model")
    parser.add_argument("--spec", type=Path, help="its ModelSpec")
    args = parser.parse_args()
    own = (args.video, args.model, args.spec)
    if any(own) and not all(own):
        parser.error("name VIDEO, MODEL and SPEC together")
    for path in filter(None, own):
        if not path.exists():
            parser.error(f"there is no {path}")
    return args


if __name__ == "__main__":
    sys.exit(main())

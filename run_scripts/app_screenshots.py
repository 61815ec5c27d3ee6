"""Take the pictures of docs/app.md anew: `python run_scripts/app_screenshots.py MODEL`.

Serves a policy, does in a headless chromium what the page describes, and writes
docs/images/app_*.png.
"""

import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))


def smaller(picture: Image.Image) -> Image.Image:
    """Without the empty rows at the bottom, in 256 colours."""
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    bounds = ImageChops.difference(picture, empty).crop((0, 0, picture.width - 20, picture.height))
    box = bounds.getbbox() or (0, 0, *picture.size)
    used = picture.crop((0, 0, picture.width, min(box[3] + 20, picture.height)))
    return used.quantize(256, kmeans=2, dither=Image.Dither.NONE)


def whole_answer(tab: Any, selector: str, answer: str = ".bot") -> None:
    """Wait until an answer stands there and grows no more."""
    tab.until(lambda: tab.all(f"{selector} {answer}"), "an answer")
    before = ""
    while before != (before := tab.text(selector)):
        time.sleep(3)


def main() -> None:
    from tests.helpers.browser import browser
    from thinker.app.serve import AppServer
    from thinker.score.scorer import QualityScorer

    target = REPO / "docs" / "images"
    target.mkdir(exist_ok=True)
    scorer = QualityScorer.from_pretrained(sys.argv[1], max_new_tokens=200)
    with AppServer(scorer) as app, browser(1200, 1700) as tab:

        def shoot(name: str) -> None:
            tab.driver.execute_script("window.scrollTo(0, 0)")
            path = target / f"app_{name}.png"
            tab.driver.save_screenshot(str(path))
            smaller(Image.open(path).convert("RGB")).save(path, optimize=True)

        tab.open(app.url)
        tab.click("button.thinker-example", "a noisy video")
        tab.says("#seen-assess", "pictures")
        tab.click("#score")
        tab.until(lambda: len(tab.all("#cards .thinker-card")) == 2, "two cards")
        tab.until(lambda: not tab.all("#note-assess .thinker-hint"), "the end of the scoring")
        tab.click("button.thinker-example", "main distortion")
        whole_answer(tab, "#chat-assess")
        shoot("assess")
        tab.tab("Compare")
        tab.click("button.thinker-example", "Two examples")
        tab.says("#seen-second", "pictures")
        tab.click("#score-each")
        tab.says("#card-second", "of 1 to 5")
        tab.click("#ask-first")
        whole_answer(tab, "#chat-first")
        shoot("compare")
        tab.tab("Timeline")
        tab.click("button.thinker-example", "a longer video")
        tab.says("#seen-long", "pictures")
        tab.click("#draw")
        tab.says("#note-timeline", "5 windows")
        shoot("timeline")
        tab.tab("Locate")
        tab.click("button.thinker-example", "local distortions")
        tab.says("#seen-locate", "picture")
        tab.click("#locate")
        tab.until(
            lambda: tab.all("#located *") or tab.all("#note-locate .thinker-problem"), "boxes"
        )
        tab.click("#describe")
        whole_answer(tab, "#description", ".thinker-text")
        shoot("locate")


if __name__ == "__main__":
    main()

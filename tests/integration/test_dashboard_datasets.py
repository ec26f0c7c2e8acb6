"""Datasets and labelling in a real browser: import, look, label by keyboard, draw, save."""

import re
import shutil
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from cloud_hub.api.http_limits import CONTENT_POLICY
from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.label_drafts import LabelDrafts
from cloud_hub.datasets.making import ImportRule
from cloud_hub.datasets.manifest import Manifest
from cloud_hub.datasets.readers.options import ReaderOptions
from cloud_hub.datasets.splits import SplitBy
from tests.support.api_client import ApiHub
from tests.support.browser import Browser, Page, open_browser
from tests.support.shape_sources import picture, write_pictures, write_windows, zipped

pytestmark = pytest.mark.slow
PHONE, DESK = (420, 900), (1280, 800)
OPERATOR = "operator"
HOSTILE = "<script>window.wasRun=1<"  # A file's name cannot have a slash
BY_ITEM = ImportRule(split_by=SplitBy.ITEM)
KEPT = "document.getElementById('label').dataset.kept === 'kept'"
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open_page() as opened:
        opened.resize(*DESK)
        yield opened
        assert opened.surprises == []


@pytest.fixture
def loose(empty_hub: ApiHub, tmp_path: Path) -> ApiHub:
    """A hub with a dataset of twelve pictures that nobody has labelled."""
    folder = tmp_path / "loose"
    folder.mkdir()
    for index in range(12):
        (folder / f"{index:02}.png").write_bytes(picture(index, side=40))
    archive = zipped(folder, tmp_path / "loose.zip")
    empty_hub.services.datasets.import_file("loose", archive, BY_ITEM, by=OPERATOR)
    return empty_hub


def press(page: Page, key: str, *, shift: bool = False) -> None:
    code = KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
    values = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
    text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
    page.command("Input.dispatchKeyEvent", type="keyDown", **values, **text)
    page.command("Input.dispatchKeyEvent", type="keyUp", **values)


def mouse(page: Page, kind: str, x: float, y: float) -> None:
    page.command(
        "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
    )


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the picture on the stage; places are shares of it."""
    script = "document.querySelector('svg.editor').getBoundingClientRect().toJSON()"
    box = page.run(script)

    def at(place: tuple[float, float]) -> tuple[float, float]:
        return box["left"] + place[0] * box["width"], box["top"] + place[1] * box["height"]

    mouse(page, "mousePressed", *at(start))
    mouse(page, "mouseMoved", *at(((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)))
    mouse(page, "mouseMoved", *at(end))
    mouse(page, "mouseReleased", *at(end))


def wait_item(page: Page, index: int) -> None:
    page.wait(f"document.getElementById('label').dataset.shown === '{index}'")


def open_labelling(hub: ApiHub, page: Page, *, name: str = "loose") -> None:
    page.open(f"{hub.url}/datasets/{name}/label")
    page.wait("document.getElementById('label').dataset.shown !== undefined")


def add_class(page: Page, name: str) -> None:
    press(page, "/")
    page.fill("[data-add] input", name)
    press(page, "Enter")


def newest(hub: ApiHub, name: str = "loose") -> tuple[DatasetVersion, Manifest]:
    version = hub.services.datasets.version(name)
    return version, hub.services.datasets.manifest(version)


def drafts(hub: ApiHub) -> LabelDrafts:
    return LabelDrafts(hub.services.database, hub.services.datasets, hub.services.clock)


def http_code(http: httpx.Client, answer: httpx.Response) -> str:
    """Return the code of a refusal, asked for again as a script asks."""
    request = answer.request
    headers = {"HX-Request": "true"}
    again = http.request(request.method, request.url, content=request.content, headers=headers)
    return str(again.json()["code"])


def inline_parts(text: str) -> list[str]:
    """Return what of a page the policy would not let run: scripts, styles and handlers within."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = {name for name, _ in attrs}
            if (tag == "script" and "src" not in names) or tag == "style":
                found.append(tag)
            found.extend(name for name in names if name == "style" or name.startswith("on"))

    Reader().feed(text)
    return found


def choose_file(page: Page, selector: str, file: Path) -> None:
    root = page.command("DOM.getDocument")["root"]["nodeId"]
    node = page.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.command("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


def test_a_file_is_imported_by_form_and_looked_at(
    empty_hub: ApiHub, page: Page, tmp_path: Path
) -> None:
    page.log_in(empty_hub.url, empty_hub.token, page="/datasets")
    assert "cloud-hub datasets import" in page.text("#datasets")
    folder = write_pictures(tmp_path / "shapes", count=10)
    shutil.copy(folder / "circle" / "0000.png", folder / "circle" / "again.png")
    (folder / "square" / "torn.png").write_bytes(b"no picture")

    (tmp_path / "odd.zip").write_bytes(b"This is no archive.")
    page.expected.append("status of 400")
    page.fill("input[name=name]", "shapes")
    choose_file(page, "input[name=file]", tmp_path / "odd.zip")
    page.run("document.querySelector('[data-import] button').click()")
    page.wait("!document.querySelector('[data-error]').hidden")
    assert "archive" in page.text("[data-error]")

    choose_file(page, "input[name=file]", zipped(folder, tmp_path / "my shapes.zip"))
    page.submit("[data-import] button")
    assert page.run("location.pathname") == "/datasets/shapes"
    text = page.text("main")
    for part in ("20 items came in", "“folder”", "was a copy", "square/torn.png", "100 %"):
        assert part in text, part
    assert "circle" in page.text(".balance")
    assert page.run("document.querySelectorAll('.tiles li').length") == 20
    assert page.run("document.querySelectorAll('.tiles img')[0].loading") == "lazy"
    page.wait("document.querySelectorAll('.tiles img')[0].naturalWidth > 0")

    page.run("window.wasHere = true")
    page.run(
        "const it = document.querySelector('[name=class_name]'); it.value = 'circle';"
        "it.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.wait_loaded()
    assert page.run("document.querySelectorAll('.tiles li').length") == 10
    page.submit(".tiles a")
    assert "circle/" in page.text("h1")
    assert "SHA-256" in page.text("main")


def test_five_items_are_labelled_by_keyboard_and_saved(loose: ApiHub, page: Page) -> None:
    page.log_in(loose.url, loose.token)
    open_labelling(loose, page)
    wait_item(page, 0)
    add_class(page, "cat")  # Labels the first one
    wait_item(page, 1)
    add_class(page, "dog")
    for index, key in ((2, "1"), (3, "2"), (4, "1")):
        wait_item(page, index)
        press(page, key)
    wait_item(page, 5)
    press(page, "1")
    wait_item(page, 6)
    press(page, "u")  # The sixth was a mistake
    wait_item(page, 5)
    assert page.text("[data-said]") == "no label"
    press(page, "ArrowLeft")
    wait_item(page, 4)
    assert page.text("[data-said]") == "cat"
    page.wait(KEPT)
    assert "5 of 12 labelled" in page.text("[data-progress]")
    assert loose.services.datasets.version("loose").version == 1  # Nothing is saved yet

    open_labelling(loose, page)  # The tab was closed; the draft is on the hub
    wait_item(page, 5)
    assert "5 of 12 labelled" in page.text("[data-progress]")
    press(page, "ArrowLeft")
    wait_item(page, 4)
    press(page, "Backspace")
    page.wait("document.querySelector('[data-said]').textContent === 'no label'")
    press(page, "2")
    wait_item(page, 5)
    page.run("document.querySelector('[data-do=save]').click()")
    page.wait("!document.querySelector('[data-done]').hidden")
    assert "version 2: 5 items" in page.text("[data-done]")
    version, manifest = newest(loose)
    assert (version.version, version.labelled_count, version.parent) == (2, 5, 1)
    labels = [None if i.label is None else manifest.classes[i.label] for i in manifest.items[:6]]
    assert labels == ["cat", "dog", "cat", "dog", "dog", None]
    assert drafts(loose).get(OPERATOR, "loose") == ()
    assert loose.services.audit.entries(limit=1)[0].action == "dataset.label"


def test_a_box_is_drawn_sized_and_saved_with_mouse_and_with_keys(loose: ApiHub, page: Page) -> None:
    page.log_in(loose.url, loose.token)
    open_labelling(loose, page)
    page.run("document.querySelector('.switch [data-task=boxes]').click()")
    page.wait("document.querySelector('svg.editor')?.getAttribute('viewBox')")
    add_class(page, "<b>car</b>")
    drag(page, (0.2, 0.2), (0.6, 0.5))
    page.wait("document.querySelectorAll('svg.editor .box').length === 1")
    assert page.run("document.querySelector('svg.editor .box text').textContent") == "<b>car</b>"
    drag(page, (0.4, 0.3), (0.5, 0.4))  # Takes hold of it
    page.wait("document.querySelectorAll('svg.editor .box').length === 1")
    drag(page, (0.7, 0.6), (0.8, 0.9))  # Its lower right corner
    press(page, "b")  # Another one, without a mouse
    page.wait("document.querySelectorAll('svg.editor .box').length === 2")
    press(page, "ArrowRight", shift=True)
    press(page, "Backspace")
    page.wait("document.querySelectorAll('svg.editor .box').length === 1")
    page.wait(KEPT)
    press(page, "ArrowRight")
    wait_item(page, 1)
    press(page, "n")  # Nothing is to be seen
    wait_item(page, 2)
    page.run("document.querySelector('[data-do=save]').click()")
    page.wait("!document.querySelector('[data-done]').hidden")
    version, manifest = newest(loose)
    assert version.version == 2
    (box,) = manifest.items[0].boxes or ()
    assert manifest.classes[box.class_index] == "<b>car</b>"
    found = (box.left, box.top, box.right, box.bottom)
    assert found == pytest.approx((0.3, 0.3, 0.8, 0.9), abs=0.02)
    assert manifest.items[1].boxes == ()
    page.open(f"{loose.url}/datasets/loose")
    assert page.run("document.querySelectorAll('.tiles svg.boxes rect').length") == 1
    place = "document.querySelector('.tiles {}').getBoundingClientRect().toJSON()"
    page.wait("document.querySelector('.tiles img').width > 40")  # Larger than it is
    assert page.run(place.format("svg.boxes")) == page.run(place.format("img"))


def test_who_saves_second_is_told_what_changed_meanwhile(loose: ApiHub, page: Page) -> None:
    page.log_in(loose.url, loose.token)
    open_labelling(loose, page)
    for index in range(3):
        wait_item(page, index)
        if index == 0:
            add_class(page, "cat")
        else:
            press(page, "1")
    wait_item(page, 3)
    page.wait(KEPT)
    _, manifest = newest(loose)
    digests = [item.digest for item in manifest.items]
    theirs = {digests[0]: "dog", digests[1]: "dog", digests[2]: "cat", digests[5]: "dog"}
    loose.services.datasets.relabel("loose", theirs, by="anna")

    page.run("document.querySelector('[data-do=save]').click()")
    page.wait("document.querySelector('dialog').open")
    assert page.run("document.querySelectorAll('dialog tbody tr').length") == 2
    assert loose.services.datasets.version("loose").version == 2  # Theirs
    page.run("document.querySelectorAll('dialog tbody tr')[1].querySelectorAll('input')[1].click()")
    page.run("document.querySelector('dialog button[value=save]').click()")
    page.wait("!document.querySelector('[data-done]').hidden")
    version, manifest = newest(loose)
    assert (version.version, version.parent) == (3, 2)
    names = [None if i.label is None else manifest.classes[i.label] for i in manifest.items]
    assert [names[i] for i in (0, 1, 2, 5)] == ["dog", "cat", "cat", "dog"]


def test_labels_wait_while_the_hub_cannot_keep_them(loose: ApiHub, page: Page) -> None:
    page.log_in(loose.url, loose.token)
    open_labelling(loose, page)
    page.expected.append("ERR_INTERNET_DISCONNECTED")
    page.command("Network.enable")
    off = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.command("Network.emulateNetworkConditions", offline=True, **off)
    add_class(page, "cat")
    page.wait("document.getElementById('label').dataset.kept === 'lost'")
    assert "trying again" in page.text("[data-kept]")
    page.command("Network.emulateNetworkConditions", offline=False, **off)
    page.wait(KEPT)
    assert [entry.change for entry in drafts(loose).get(OPERATOR, "loose")] == ["cat"]


def test_labels_wait_for_a_person_who_was_logged_out(loose: ApiHub, page: Page) -> None:
    page.log_in(loose.url, loose.token)
    open_labelling(loose, page)
    page.expected.append("status of 401")
    page.command("Network.clearBrowserCookies")
    add_class(page, "cat")
    page.wait("document.querySelector('[data-error]').innerText.includes('logged out')")
    assert drafts(loose).get(OPERATOR, "loose") == ()
    # As in another tab: the cookie is there again.
    body = f"new URLSearchParams({{token: '{loose.token}'}})"
    assert page.run(f"fetch('/login', {{method: 'POST', body: {body}}}).then((it) => it.ok)")
    page.wait(KEPT)
    assert [entry.change for entry in drafts(loose).get(OPERATOR, "loose")] == ["cat"]
    assert page.run("document.querySelector('[data-error]').hidden")


def test_windows_and_texts_are_shown_and_labelled(
    empty_hub: ApiHub, page: Page, tmp_path: Path
) -> None:
    datasets = empty_hub.services.datasets
    windows = write_windows(tmp_path / "shaft.csv", count=3, samples=16)
    rule = ImportRule(split_by=SplitBy.ITEM, options=ReaderOptions(window=16))
    datasets.import_file("shaft", windows, rule, by=OPERATOR)
    texts = tmp_path / "notes.csv"
    lines = [f"<script>window.wasRun=1</script> note {i}," for i in range(6)]
    texts.write_text("\n".join(["text,label", *lines]) + "\n")
    datasets.import_file("notes", texts, BY_ITEM, by=OPERATOR)
    page.log_in(empty_hub.url, empty_hub.token, page="/datasets/shaft")
    page.wait("document.querySelector('.tiles img').naturalWidth === 160")
    page.submit(".tiles a")
    page.wait("Number(document.querySelector('[data-window]').dataset.drawn) === 2")
    open_labelling(empty_hub, page, name="shaft")
    assert page.run("document.querySelectorAll('.stage canvas').length") == 2
    page.open(f"{empty_hub.url}/datasets/notes")
    assert "<script>" in page.text(".excerpt")
    open_labelling(empty_hub, page, name="notes")
    assert "<script>" in page.text(".stage .message")
    add_class(page, "spam")
    wait_item(page, 1)
    page.wait(KEPT)
    assert page.run("window.wasRun") is None


def test_hostile_names_are_only_text(empty_hub: ApiHub, page: Page, tmp_path: Path) -> None:
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for index in range(4):
            written.writestr(f"{HOSTILE}/{HOSTILE}{index}.png", picture(index))
            written.writestr(f"\"><img src=x onerror=alert(1)>/{index}'.png", picture(50 + index))
        written.writestr(f"{'long' * 30}/{'x' * 110}.png", picture(99))
    empty_hub.services.datasets.import_file("odd", archive, BY_ITEM, by=OPERATOR)
    page.log_in(empty_hub.url, empty_hub.token)
    for path in ("/datasets", "/datasets/odd", "/datasets/odd/versions/1/items/0"):
        page.open(empty_hub.url + path)
        assert page.run("window.wasRun") is None
        assert page.run("document.querySelector('main img[src=x]')") is None
    open_labelling(empty_hub, page, name="odd")
    assert HOSTILE in page.text("[data-classes]")
    page.resize(*PHONE)
    for path in ("/datasets", "/datasets/odd", "/datasets/odd/label?item=8"):
        page.open(empty_hub.url + path)
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], path
    assert page.run("window.wasRun") is None
    http = empty_hub.client()
    for path in ("/datasets", "/datasets/odd", "/datasets/odd/label"):
        answer = http.get(path)
        assert HOSTILE not in answer.text
        assert inline_parts(answer.text) == []
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
    for name in ("<script>", "../etc", "%3Cscript%3E", "A"):
        assert http.get(f"/datasets/{name}").status_code in (400, 404)
    told = http.get("/datasets/odd", params={"read_as": "<script>", "added": 3}).text
    assert "3 items came in." in told  # Of a layout that there is not, nothing is repeated


def test_what_people_do_with_a_version(loose: ApiHub, page: Page, tmp_path: Path) -> None:
    page.log_in(loose.url, loose.token, page="/datasets/loose")
    page.fill("form[action$='/split'] [name=seed]", "3")
    page.submit("form[action$='/split'] button")
    assert "v2" in page.text("h1")
    assert "by item" in page.text("main")
    page.fill("form[action$='/split'] [name=train]", "50")
    page.expected.append("status of 400")
    page.submit("form[action$='/split'] button")
    assert "add up to 100" in page.text("main")
    page.open(f"{loose.url}/datasets/loose?version=1")
    assert "not the newest" in page.text("main")
    page.run("document.querySelector('form[action$=\"/versions/1/remove\"] button').click()")
    page.submit("form[action$='/versions/1/remove'] button.danger:not([type=button])")
    assert [each.version for each in loose.services.datasets.versions("loose")] == [2]
    answer = loose.client().get("/datasets/loose/versions/2/labels.zip", params={"tool": "cvat"})
    assert answer.headers["content-type"] == "application/zip"
    (tmp_path / "out.zip").write_bytes(answer.content)
    with zipfile.ZipFile(tmp_path / "out.zip") as exported:
        told = exported.read("annotations.xml").decode()
    image = re.search(r"<image [^>]*?/?>", told)
    assert image is not None
    plain = image.group().rstrip("/>").rstrip()
    labelled = told.replace(image.group(), f'{plain}><tag label="cat" source="manual"/></image>', 1)
    if not image.group().endswith("/>"):
        labelled = told.replace(image.group(), f'{image.group()}<tag label="cat"/>', 1)
    (tmp_path / "back.xml").write_text(labelled)
    page.open(f"{loose.url}/datasets/loose")
    page.run("document.querySelector('[data-labels] [name=tool]').value = 'cvat'")
    choose_file(page, "[data-labels] input[type=file]", tmp_path / "back.xml")
    page.submit("[data-labels] button")
    assert "1 item came back" in page.text("main")
    assert loose.services.datasets.version("loose").labelled_count == 1


def test_what_the_labelling_page_is_told_and_may_say(loose: ApiHub) -> None:
    http = loose.client()
    path = "/datasets/loose/label"
    queue = http.get(f"{path}/queue", params={"limit": 5}).json()
    assert (len(queue["items"]), queue["count"], queue["labelled_count"]) == (5, 12, 0)
    rest = http.get(f"{path}/queue", params={"limit": 5, "item": 11}).json()
    assert [item["index"] for item in rest["items"]] == [10, 11]
    digest = queue["items"][0]["digest"]

    def said(**label: object) -> httpx.Response:
        labels = [{"digest": digest, **label}]
        return http.post(f"{path}/draft", json={"version": 1, "labels": labels})

    for answer, code in (
        (said(label="\n"), "dataset.label"),
        (said(digest="0" * 64, label="cat"), "dataset.item"),
        (said(label="cat", boxes=[]), "request.invalid"),
        (said(odd=1), "request.invalid"),
        (http.post(f"{path}/draft", content=b"{"), "request.invalid"),
        (http.post(f"{path}/save", json={}), "dataset.draft_empty"),
        (http.post(f"{path}/save", json={"mine": ["x"]}), "request.invalid"),
        (http.get(f"{path}/queue", params={"order": "class", "class_name": "x"}), "dataset.class"),
        (http.post("/datasets/nothing/label/save", json={}), "dataset.draft_empty"),
    ):
        told = http_code(http, answer)
        assert told == code, (answer.request.url, answer.text[-300:])
    assert said(label="cat").json()["draft_count"] == 1
    assert said(label="dog").json()["labelled_count"] == 1
    assert said().json() == {"draft_count": 0, "labelled_count": 0, "items_count": 12, "newest": 1}
    assert said(boxes=[]).json()["draft_count"] == 1
    assert http.post(f"{path}/discard").json() == {"discarded_count": 1}
    assert said(label="cat").status_code == 200
    loose.services.datasets.remove("loose", None)
    assert drafts(loose).get(OPERATOR, "loose") == ()


def test_nothing_is_wider_than_a_phone(loose: ApiHub, page: Page) -> None:
    page.log_in(loose.url, loose.token)
    page.resize(*PHONE)
    for path in ("/datasets", "/datasets/loose", "/datasets/loose/versions/1/items/0"):
        page.open(loose.url + path)
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], path
    open_labelling(loose, page)
    assert page.run("document.documentElement.scrollWidth") <= PHONE[0]
    box = page.run("document.querySelector('.stage img').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= PHONE[0]

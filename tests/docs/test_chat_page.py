"""The page of the chat service in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from sessions.services import AgentContext
from tests.support.chat_service import Served, served
from tests.support.servers import NoServerError

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 390, "height": 780}
SECONDS = 60.0


class Model:
    """Streams a message, counted. If it begins with "hold", it stops after its third piece, once.

    Attributes:
        asked: How often it was asked.
        go_on: Lets it continue.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.held: set[str] = set()
        self.go_on = threading.Event()

    async def stream(self, message: str, context: AgentContext) -> AsyncIterator[str]:
        self.asked += 1
        if message == "fail" and self.asked == 1:
            raise RuntimeError("no answer")
        pieces = re.findall(r"\s*\S+", f"Answer {self.asked}: {message}")
        after = {"hold": 3, "silence": 0}.get(message.split()[0])
        for number, piece in enumerate(pieces):
            if number == after and message not in self.held:
                self.held.add(message)
                while not self.go_on.is_set():
                    await asyncio.sleep(0.01)
            yield piece


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        raise NoServerError("no browser to test with: apt-get install chromium")
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        # As root, as in a container, chromium has no sandbox.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def service(sqlite_url: str, model: Model) -> Iterator[Served]:
    with served("sqlite", sqlite_url, answer=model) as service:
        yield service


@pytest.fixture
def page(service: Served, browser: Browser, tmp_path: Path) -> Iterator[Page]:
    context = browser.new_context(viewport=WIDE, base_url=service.url)
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
    page.goto("/")
    yield page
    page.screenshot(path=tmp_path / "page.png")  # To look at: `pytest --basetemp`.
    context.close()
    assert failures == []


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def ask(page: Page, message: str, *, wait: bool = True) -> None:
    page.get_by_label("Message", exact=True).press_sequentially(message)
    page.keyboard.press("Enter")
    if wait:
        settled(page)


def settled(page: Page) -> None:
    expect(button(page, "Regenerate")).to_be_visible()


def texts(page: Page) -> list[str]:
    return page.locator("#messages .text").all_text_contents()


def recent(page: Page) -> Locator:
    """Return the titles of the conversations that are not pinned."""
    return page.get_by_role("region", name="Recent").locator("li span:first-child")


def stored(page: Page) -> list[tuple[str, Any]]:
    """Return the contents and the status of the messages of the conversation that is shown."""
    chosen = page.evaluate("location.hash").removeprefix("#")
    history = page.request.get(f"/api/sessions/{chosen}/messages").json()
    return [(message["content"], message["metadata"].get("status")) for message in history]


def test_a_message_is_answered_piece_by_piece_and_again_after_a_reload(page: Page, model: Model) -> None:
    answer = page.locator("#messages .assistant .text").last
    # Markup is text.
    first = 'hold <img src=x onerror="document.body.remove()"> the rest'
    ask(page, first, wait=False)
    expect(answer).to_have_text("Answer 1: hold")
    expect(button(page, "Stop")).to_be_visible()
    model.go_on.set()
    settled(page)
    assert texts(page) == [first, f"Answer 1: {first}"]
    expect(recent(page)).to_have_text([re.compile("^hold <img")])
    expect(page.get_by_role("heading", level=1)).to_contain_text("hold <img")

    # In the middle of an answer: what there was of it is stored, and the agent is not asked again.
    model.go_on.clear()
    ask(page, "hold two", wait=False)
    expect(answer).to_have_text("Answer 2: hold")
    page.reload()
    expect(page.get_by_text("Interrupted")).to_be_visible()
    settled(page)
    assert stored(page)[2:] == [("hold two", None), ("Answer 2: hold", "partial")]
    assert model.asked == 2

    # Before its first piece nothing is stored: the message is sent again, and the agent asked again.
    ask(page, "silence at first", wait=False)
    while model.asked < 3:
        page.wait_for_timeout(20)
    page.reload()
    expect(answer).to_have_text("Answer 4: silence at first")
    settled(page)
    assert stored(page)[4:] == [("silence at first", None), ("Answer 4: silence at first", "complete")]

    # Stopped, an answer is stored as far as it came; made anew, it is replaced.
    ask(page, "hold three", wait=False)
    expect(answer).to_have_text("Answer 5: hold")
    button(page, "Stop").click()
    settled(page)
    assert stored(page)[6:] == [("hold three", None), ("Answer 5: hold", "partial")]
    button(page, "Regenerate").click()
    expect(answer).to_have_text("Answer 6: hold three")
    expect(page.get_by_text("Interrupted")).to_have_count(1)
    assert stored(page)[6:] == [("hold three", None), ("Answer 6: hold three", "complete")]
    assert [content for content, _ in stored(page)] == texts(page)


def test_an_answer_that_is_made_anew_comes_piece_by_piece(page: Page, model: Model) -> None:
    answer = page.locator("#messages .assistant .text").last
    model.held.add("hold one")
    ask(page, "hold one")
    model.held.clear()
    button(page, "Regenerate").click()
    expect(answer).to_have_text("Answer 2: hold")
    expect(button(page, "Stop")).to_be_visible()
    model.go_on.set()
    settled(page)
    assert stored(page) == [("hold one", None), ("Answer 2: hold one", "complete")]

    # Stopped, it replaces the old one as far as it came; so does that of an edited message.
    model.go_on.clear()
    model.held.clear()
    button(page, "Regenerate").click()
    expect(answer).to_have_text("Answer 3: hold")
    button(page, "Stop").click()
    expect(page.get_by_text("Interrupted")).to_be_visible()
    assert stored(page) == [("hold one", None), ("Answer 3: hold", "partial")]
    button(page, "Edit").click()
    page.get_by_label("Edited message").fill("hold two")
    button(page, "Save").click()
    expect(page.locator("#messages .text")).to_have_text(["hold two", "Answer 4: hold"])
    model.go_on.set()
    settled(page)
    assert stored(page) == [("hold two", None), ("Answer 4: hold two", "complete")]

    # So does one during which the page is reloaded.
    model.go_on.clear()
    model.held.clear()
    button(page, "Regenerate").click()
    expect(answer).to_have_text("Answer 5: hold")
    page.reload()
    expect(page.get_by_text("Interrupted")).to_be_visible()
    assert stored(page) == [("hold two", None), ("Answer 5: hold", "partial")]

    # Before its first piece, it leaves the old one.
    model.go_on.clear()
    button(page, "Edit").click()
    page.get_by_label("Edited message").fill("silence")
    button(page, "Branch").click()
    expect(page.locator("#messages .text").first).to_have_text("silence")
    while model.asked < 6:
        page.wait_for_timeout(20)
    button(page, "Stop").click()
    expect(page.locator("#messages .text")).to_have_text(["hold two", "Answer 5: hold"])
    expect(recent(page)).to_have_count(1)
    assert [content for content, _ in stored(page)] == texts(page)


def test_a_message_is_edited_in_place_or_in_a_branch(page: Page) -> None:
    for message in ("Rome", "Oslo"):
        ask(page, message)
    button(page, "Edit").first.click()
    page.get_by_label("Edited message").fill("Paris")
    button(page, "Branch").click()
    expect(page.locator("#messages .text")).to_have_text(["Paris", "Answer 3: Paris"])
    expect(recent(page)).to_have_count(2)
    # The one that was branched from stays as it is.
    page.get_by_role("region", name="Recent").get_by_role("listitem").filter(has_text="Oslo").click()
    expect(page.locator("#messages .text")).to_have_text(["Rome", "Answer 1: Rome", "Oslo", "Answer 2: Oslo"])
    button(page, "Edit").last.click()
    button(page, "Cancel").click()
    button(page, "Edit").last.click()
    page.get_by_label("Edited message").fill("Lima")
    button(page, "Save").click()
    expect(page.locator("#messages .text")).to_have_text(["Rome", "Answer 1: Rome", "Lima", "Answer 4: Lima"])
    assert [content for content, _ in stored(page)] == texts(page)


def test_conversations_are_renamed_pinned_found_and_deleted(page: Page) -> None:
    for message in ("Trip to Rome", "Trip to Oslo", "Trip to Lima"):
        button(page, "New chat").click()
        ask(page, message)
    page.get_by_role("region", name="Recent").get_by_text("Trip to Rome").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Trip to Rome")
    button(page, "Rename").click()
    page.get_by_role("textbox", name="New title").fill("Italy")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Italy")
    expect(recent(page)).to_have_text(["Trip to Lima", "Trip to Oslo", "Italy"])

    button(page, "Pin").click()
    expect(button(page, "Unpin")).to_be_visible()
    pinned = page.get_by_role("region", name="Pinned").locator("li span:first-child")
    expect(pinned).to_have_text(["Italy"])
    expect(recent(page)).to_have_text(["Trip to Lima", "Trip to Oslo"])
    page.reload()
    expect(button(page, "Unpin")).to_be_visible()
    button(page, "Unpin").click()
    expect(button(page, "Pin")).to_be_visible()
    expect(recent(page)).to_have_text(["Trip to Lima", "Trip to Oslo", "Italy"])

    page.get_by_label("Search messages").fill("OSLO answer")
    found = page.get_by_role("region", name="Found")
    expect(found.get_by_role("listitem")).to_have_count(1)
    found.get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Trip to Oslo")
    expect(page.locator("#messages .found")).to_have_text(re.compile("Answer 2: Trip to Oslo"))
    page.get_by_label("Search messages").fill("")
    expect(recent(page)).to_have_count(3)

    button(page, "Delete").click()
    button(page, "Cancel").click()
    button(page, "Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(recent(page)).to_have_count(2)
    expect(recent(page)).to_have_text(["Trip to Lima", "Italy"])
    expect(page.get_by_role("heading", level=1)).to_have_text("New chat")
    # Another user has no conversation.
    page.get_by_label("User").fill("bob")
    page.keyboard.press("Enter")
    expect(recent(page)).to_have_count(0)


def test_a_message_whose_answer_failed_is_kept_to_be_sent_again(page: Page) -> None:
    ask(page, "fail", wait=False)
    expect(page.get_by_role("status")).to_have_text("the agent raised RuntimeError.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("fail")
    expect(page.locator("#messages li")).to_have_count(0)
    expect(recent(page)).to_have_count(0)
    button(page, "Send").click()
    settled(page)
    expect(page.get_by_role("status")).to_have_text("")
    assert stored(page) == [("fail", None), ("Answer 2: fail", "complete")]


FITS = "[document.documentElement, document.querySelector('main')].every((e) => e.scrollWidth <= innerWidth)"
# What is shown, and has no name for those who do not see it.
NAMELESS = """[...document.querySelectorAll("button, input, textarea")].filter((found) =>
  found.checkVisibility() && !(found.labels?.length || found.ariaLabel || found.textContent.trim()))
  .map((found) => found.outerHTML)"""


def test_it_fits_a_narrow_window_and_every_control_has_a_name(page: Page, tmp_path: Path) -> None:
    ask(page, f"{'x' * 100} {'Trip to Rome ' * 10}")
    for window in (WIDE, NARROW):
        page.set_viewport_size(window)
        button(page, "Edit").click()
        assert page.evaluate(FITS)
        assert page.evaluate(NAMELESS) == []
        page.screenshot(path=tmp_path / f"{window['width']}.png")
        button(page, "Cancel").click()
    expect(button(page, "New chat")).to_be_hidden()
    button(page, "Chats").click()
    button(page, "New chat").click()
    expect(button(page, "New chat")).to_be_hidden()
    expect(page.get_by_text("Ask something.")).to_be_visible()

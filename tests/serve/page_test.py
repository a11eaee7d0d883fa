"""The page in headless Chromium: it runs a prompt, shows tokens, heat and what a token looked up, side by side.

    page_test.py SERVE_FAKE SOURCE_DIR [FOLDER_FOR_SCREENSHOTS]

Chromium is driven over its debugging pipe (no package needed); ENGRAM_CHROMIUM names another program than chromium.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from serving import Server, skip

CHROMIUM = os.environ.get("ENGRAM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
KEY = "a-key-for-tests"


class Browser:
    """One page of one Chromium."""

    def __init__(self, folder):
        here, there = os.pipe(), os.pipe()
        # Chromium reads descriptor 3 and writes 4.
        command = ["sh", "-c", f'exec "$0" "$@" 3<&{here[0]} 4>&{there[1]}', CHROMIUM, "--headless=new",
                   "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                   f"--user-data-dir={folder}", "--no-first-run", "--disable-background-networking",
                   "--disable-component-update", "--hide-scrollbars", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(here[0], there[1]), stderr=subprocess.DEVNULL)
        os.close(here[0])
        os.close(there[1])
        self.to, self.source = here[1], there[0]
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")

    def receive(self, limit):
        while b"\0" not in self.buffer:
            if not select.select([self.source], [], [], limit)[0]:
                return None
            bytes_read = os.read(self.source, 1 << 20)
            if not bytes_read:
                raise RuntimeError("Chromium has ended")
            self.buffer += bytes_read
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive(60)
            if answer is None:
                raise RuntimeError(f"{method}: no answer")
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def wait(self, script, limit=20):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; the page says: {self.run('document.body.innerText')[:600]}")

    def open(self, url, width=1200, height=1000, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def shoot(self, name):
        if len(sys.argv) > 3:
            picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
            (Path(sys.argv[3]) / name).write_bytes(base64.b64decode(picture))

    def complaints(self):
        """What the console and the network have to say against the page."""
        out = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                out.append(parameters["exceptionDetails"]["text"] + json.dumps(parameters["exceptionDetails"])[:300])
            if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                out.append(parameters["entry"]["text"])
        return out

    def requests(self):
        return [event["params"]["request"]["url"] for event in self.events
                if event.get("method") == "Network.requestWillBeSent"]

    def close(self):
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self.process.wait(timeout=20)
        os.close(self.to)
        os.close(self.source)


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        cls.browser = Browser(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.folder.cleanup()

    def fill(self, **values):
        for name, value in values.items():
            self.browser.run(f"document.getElementById({json.dumps(name.replace('_', '-'))}).value = {json.dumps(value)}")

    def test_tokens_heat_and_both_sides(self):
        browser = self.browser
        browser.open(SERVER.url)
        browser.wait("document.getElementById('model').textContent.includes('fake-model')")
        self.fill(prompt="Who <b>knows</b>\n& why?", max_tokens="90", temperature="0")
        browser.run("document.getElementById('run').click()")
        browser.wait("document.querySelectorAll('#on .new').length > 5 && !document.getElementById('stop').disabled")
        browser.wait("document.getElementById('stop').disabled")
        text = "[...document.querySelectorAll('#%s .t')].map((t) => t.item.text).join('')"
        prompt = "Who <b>knows</b>\n& why?"
        for side in ("on", "off"):
            shown = browser.run(text % side)
            self.assertTrue(shown.startswith(prompt + "The memory of a model"), shown)
            self.assertIn("\u6f22\u5b57", shown)
        self.assertIsNone(browser.run("document.querySelector('#on b')"), "a prompt is text, never markup")
        heats = browser.wait("(() => { const all = [...document.querySelectorAll('#on .t.has')].map((t) => "
                             "getComputedStyle(t).borderBottomColor); return all.length > 80 && all; })()")
        self.assertGreater(len(set(heats)), 10, "heat follows the gate")
        self.assertEqual(0, browser.run("[...document.querySelectorAll('#off .t')].filter((t) => t.style.backgroundColor)"
                                        ".length"), "no memory, no heat")
        self.assertIn("reached max tokens", browser.run("document.getElementById('on-status').textContent"))
        browser.run("document.querySelectorAll('#on .t.has')[30].focus()")
        tip = browser.wait("!document.getElementById('tip').hidden && document.getElementById('tip').innerText")
        for wanted in ("Layer 1 (second block)", "Layer 4 (fifth block)", "branch 1", "probability 78 %", "likeliest:", "2-gram", "3-gram", "cache", "drive, miss"):
            self.assertIn(wanted, tip)
        low = browser.run("document.getElementById('low').textContent")
        browser.run("(() => { const layer = document.getElementById('layer'); layer.value = '4'; layer.onchange(); })()")
        browser.wait(f"document.getElementById('low').textContent !== {json.dumps(low)}")
        browser.wait("[...document.querySelectorAll('.chart b')].every((b) => b.textContent !== '\u2013')")
        browser.shoot("page.png")
        self.assertEqual([], browser.complaints())
        self.assertEqual([], [url for url in browser.requests() if not url.startswith((SERVER.url, "data:", "about:"))])

    def test_arrow_keys_walk_over_tokens(self):
        browser = self.browser
        browser.open(SERVER.url, dark=True)
        browser.wait("document.getElementById('model').textContent.includes('fake-model')")
        self.fill(max_tokens="12")
        browser.run("document.getElementById('compare').checked = false; document.getElementById('run').click()")
        browser.wait("document.querySelectorAll('#on .new').length === 12 && document.getElementById('stop').disabled")
        self.assertTrue(browser.run("document.getElementById('off-panel').hidden"))
        browser.run("document.querySelector('#on [tabindex=\"0\"]').focus()")
        for _ in range(3):
            browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight", windowsVirtualKeyCode=39)
        self.assertIn("position 3", browser.run("document.getElementById('tip').innerText"))
        browser.shoot("dark.png")
        browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="Escape", windowsVirtualKeyCode=27)
        self.assertTrue(browser.run("document.getElementById('tip').hidden"))

    def test_a_seed_is_shown_and_gives_its_text_again(self):
        browser = self.browser
        browser.open(SERVER.url)
        browser.wait("document.getElementById('model').textContent.includes('fake-model')")
        texts = []
        for seed in ("7", "7", "8", ""):
            self.fill(max_tokens="9", temperature="0.8", top_p="0.9", seed=seed)
            browser.run("document.getElementById('run').click()")
            browser.wait("document.querySelectorAll('#on .new').length === 9 && document.getElementById('stop').disabled")
            self.assertIn(f"seed {seed}", browser.run("document.getElementById('on-status').textContent"))
            texts.append(browser.run("[...document.querySelectorAll('#on .new')].map((t) => t.item.text).join('')"))
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_errors_and_stop(self):
        browser = self.browser
        browser.open(SERVER.url, width=420, height=900)
        browser.wait("document.getElementById('model').textContent.includes('fake-model')")
        self.fill(prompt="FAIL", max_tokens="50")
        browser.run("document.getElementById('run').click()")
        browser.wait("document.getElementById('error').textContent.includes('page 7')")
        self.fill(prompt="x" * 5000)
        browser.run("document.getElementById('run').click()")
        browser.wait("document.getElementById('error').textContent.includes('wanted at most 4095')")
        browser.shoot("narrow.png")
        self.fill(prompt="HANG", max_tokens="50")
        browser.run("document.getElementById('run').click()")
        browser.wait("document.getElementById('on-status').textContent.includes('waiting')")
        browser.run("document.getElementById('stop').click()")
        browser.wait("document.getElementById('on-status').textContent.includes('stopped')")
        self.assertTrue(browser.run("document.getElementById('error').hidden"))
        # The slots are free again.
        browser.wait("fetch('metrics.json').then((r) => r.json()).then((m) => m.running === 0)")

    def test_a_resident_table_has_no_rows_to_find(self):
        """Seen: "Rows found in memory" said "nothing yet" for ever; temperature 0, the default, made small models loop."""
        browser = self.browser
        with Server(sys.argv[1], step_us=0) as resident:
            browser.open(resident.url)
            browser.wait("document.getElementById('model').textContent.includes('fake-model')")
            self.assertEqual("0.7", browser.run("document.getElementById('temperature').value"))
            browser.wait("[...document.querySelectorAll('.chart')].find((c) => c.innerText.includes('Rows found'))"
                         ".innerText.includes('the table is resident')")

    def test_a_server_with_a_key(self):
        browser = self.browser
        with Server(sys.argv[1], KEY) as locked:
            browser.open(locked.url)
            browser.wait("document.getElementById('error').textContent.includes('needs an API key')")
            self.assertFalse(browser.run("document.getElementById('key-field').hidden"))
            self.fill(key=KEY, max_tokens="5")
            browser.run("document.getElementById('key').dispatchEvent(new Event('change'))")
            browser.wait("document.getElementById('model').textContent.includes('fake-model')")
            browser.run("document.getElementById('run').click()")
            browser.wait("document.querySelectorAll('#on .new').length === 5")
            self.assertEqual(KEY, browser.run("sessionStorage.getItem('engram-key')"))
            self.assertEqual(0, browser.run("localStorage.length"))


if __name__ == "__main__":
    if not CHROMIUM:
        skip("no Chromium: install Debian package chromium, or name one in ENGRAM_CHROMIUM")
    with Server(sys.argv[1], step_us=2000) as SERVER:
        result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    sys.exit(not result.wasSuccessful())

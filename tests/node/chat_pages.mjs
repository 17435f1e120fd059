// Two pages of the chat in Chromium.
//
// Usage: node chat_pages.mjs URL SCENARIO

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, scenario] = process.argv.slice(2);
const patience = 20_000;

const options = {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
};
const browser = await chromium.launch(options);
const context = await browser.newContext();

const welcomed = (page, times) =>
  page.waitForFunction((times) => chat.welcomes === times, times, { timeout: patience });

const join = async (name, where = context) => {
  const page = await where.newPage();
  page.on("pageerror", (error) => {
    throw error;
  });
  await page.goto(`${url}?name=${name}`);
  await welcomed(page, 1);
  return page;
};

// As a person would.
const say = async (page, text) => {
  await page.fill("#text", text);
  await page.click("button");
};

const items = (page) => page.locator("#messages li").allTextContents();

// Waits until as many are there, and fails unless they are these.
const shows = async (page, expected) => {
  await page
    .waitForFunction((count) => chat.messages.length >= count, expected.length, { timeout: patience })
    .catch(async () => assert.deepEqual(await items(page), expected));
  assert.deepEqual(await items(page), expected);
};

const heard = async () => (await fetch(new URL("heard", url))).json();

// Waits until the application has heard it of a name.
const hears = async (name, isIt) => {
  const end = Date.now() + patience;
  for (;;) {
    const all = (await heard()).filter((one) => one.name === name);
    const found = all.find(({ what }) => isIt(what));
    if (found) {
      return found.what;
    }
    assert.ok(Date.now() < end, JSON.stringify(all));
  }
};

const dismiss = async (name, code) => {
  const body = JSON.stringify({ name, code });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(new URL("dismiss", url), { method: "POST", headers, body });
  assert.equal(response.status, 200);
};

const texts = (from, count) => Array.from({ length: count }, (_, index) => `${from} ${index} ä€😀`);
const sayAll = (page, all) => page.evaluate((all) => all.forEach((text) => chat.say(text)), all);
const of = (all, name) => all.filter((text) => text.startsWith(`${name}: `));
const lines = (name, all) => all.map((text) => `${name}: ${text}`);

const scenarios = {
  async talk() {
    const [ann, bob] = [await join("ann"), await join("bob")];
    await say(ann, "hello");
    await shows(bob, ["ann: hello"]);
    await say(bob, "hello, ann");
    const begin = ["ann: hello", "bob: hello, ann"];
    await shows(ann, begin);
    await shows(bob, begin);

    // Both at once, and faster than the application is asked.
    const [ofAnn, ofBob] = [texts("ann", 50), texts("bob", 50)];
    await Promise.all([sayAll(ann, ofAnn), sayAll(bob, ofBob)]);
    const expected = begin.length + ofAnn.length + ofBob.length;
    for (const page of [ann, bob]) {
      await page.waitForFunction((count) => chat.messages.length >= count, expected, { timeout: patience });
    }
    // What came twice would be there before this.
    await hears("ann", (what) => what === ofAnn.at(-1));
    await hears("bob", (what) => what === ofBob.at(-1));
    await say(ann, "last");
    for (const page of [ann, bob]) {
      await page.waitForFunction(() => chat.messages.at(-1).text === "last", null, { timeout: patience });
      const all = await items(page);
      assert.deepEqual(of(all, "ann"), lines("ann", ["hello", ...ofAnn, "last"]));
      assert.deepEqual(of(all, "bob"), lines("bob", ["hello, ann", ...ofBob]));
      assert.equal(all.length, expected + 1);
      assert.deepEqual(await page.evaluate(() => chat.closes), []);
    }
  },

  async leave() {
    const [ann, bob, eve] = [await join("ann"), await join("bob"), await join("eve")];
    await ann.evaluate(() => chat.leave(3456));
    await hears("ann", (what) => what === "CLOSE 3456");
    await ann.waitForFunction(() => chat.closes.length === 1, null, { timeout: patience });
    assert.deepEqual(await ann.evaluate(() => chat.closes), [{ code: 3456, wasClean: true }]);
    await bob.close();
    console.log(await hears("bob", (what) => /^(CLOSE|DISCONNECT)/.test(what)));
    // This one has no time for a word.
    const server = await chromium.launchServer(options);
    const other = await chromium.connect(server.wsEndpoint());
    await join("dan", other);
    await server.kill();
    await hears("dan", (what) => what === "DISCONNECT");
    // The others are as before.
    await say(eve, "alone");
    await shows(eve, ["eve: alone"]);
    await shows(ann, []);
  },

  async return() {
    const [ann, bob] = [await join("ann"), await join("bob")];
    await say(ann, "before");
    await Promise.all([ann, bob].map((page) => shows(page, ["ann: before"])));
    await dismiss("ann", 4321);
    await welcomed(ann, 2);
    assert.deepEqual(await ann.evaluate(() => chat.closes), [{ code: 4321, wasClean: true }]);
    await say(ann, "again");
    await say(bob, "welcome back");
    for (const page of [ann, bob]) {
      await page.waitForFunction(() => chat.messages.length >= 3, null, { timeout: patience });
      const all = await items(page);
      assert.deepEqual(of(all, "ann"), ["ann: before", "ann: again"]);
      assert.deepEqual(of(all, "bob"), ["bob: welcome back"]);
      assert.equal(all.length, 3);
    }
    assert.deepEqual(await bob.evaluate(() => chat.closes), []);
    // A page that is loaded again begins anew.
    await ann.reload();
    await welcomed(ann, 1);
    await say(bob, "and now?");
    await shows(ann, ["bob: and now?"]);
    await say(ann, "yes");
    await shows(ann, ["bob: and now?", "ann: yes"]);
  },
};

try {
  await scenarios[scenario]();
} finally {
  await browser.close();
}

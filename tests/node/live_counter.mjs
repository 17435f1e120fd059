// Live Counter as people see it: two pages in Chromium change together, and a third that is opened
// later begins with the value of that moment.
//
// Usage: node live_counter.mjs URL SOURCE [SCREENSHOT]
// SOURCE is where the first page has its value from: miss or hit.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, firstSource, screenshot] = process.argv.slice(2);
const patience = 20_000;

const browser = await chromium.launch({
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
});

try {
  const context = await browser.newContext({ viewport: { width: 640, height: 480 } });

  const open = async () => {
    const page = await context.newPage();
    page.on("pageerror", (error) => {
      throw error;
    });
    await page.goto(url);
    await page.waitForSelector('#state[data-state="live"]', { timeout: patience });
    return page;
  };
  const value = (page) => page.textContent("#value").then(Number);
  const shows = (page, expected) =>
    page.waitForFunction(
      (text) => document.querySelector("#value").textContent.trim() === text,
      String(expected),
      { timeout: patience },
    );
  const source = (page) => page.getAttribute("#source", "data-cache");

  const first = await open();
  const second = await open();
  const begin = await value(first);
  assert.equal(await value(second), begin);
  assert.equal(await source(first), firstSource);
  assert.equal(await source(second), "hit");

  await first.click("#increment");
  await Promise.all([shows(first, begin + 1), shows(second, begin + 1)]);
  await second.click("#increment");
  await Promise.all([shows(first, begin + 2), shows(second, begin + 2)]);

  const third = await open();
  assert.equal(await value(third), begin + 2);
  await third.click("#increment");
  await Promise.all([first, second, third].map((page) => shows(page, begin + 3)));

  if (screenshot) {
    await second.screenshot({ path: screenshot, fullPage: true });
  }
} finally {
  await browser.close();
}

// An origin of Express and the unchanged @fanoutio/serve-grip, as its documentation shows.

import { once } from "node:events";
import { createInterface } from "node:readline";
import { createServer } from "node:http";
import express from "express";
import { Channel, HttpResponseFormat, HttpStreamFormat } from "@fanoutio/grip";
import { ServeGrip } from "@fanoutio/serve-grip";

const app = express();
const server = createServer(app).listen(0, "127.0.0.1");
await once(server, "listening");
console.log(server.address().port);
const lines = createInterface({ input: process.stdin });
const [gripUrl] = await once(lines, "line");
lines.on("close", () => process.exit(0));

const serveGrip = new ServeGrip({ grip: gripUrl, prefix: "app-" });
app.use(serveGrip);
app.use(express.json());

app.get("/grip", async (req, res) => {
  const { isProxied, isSigned, needsSigned } = req.grip;
  // The middleware does not wait for what its check finds, and so takes any signature.
  const found = await serveGrip.getPublisher().validateGripSig(req.headers["grip-sig"]);
  res.json({ isProxied, isSigned, needsSigned, found });
});

const hold = (req, res, channel) => {
  const instruct = res.grip.startInstruct();
  instruct.addChannel(channel);
  return instruct;
};

app.get("/stream", (req, res) => {
  hold(req, res, "news").setHoldStream();
  res.type("text/plain").end("begin\n");
});

app.get("/kept", (req, res) => {
  const instruct = hold(req, res, "news");
  instruct.setHoldStream();
  instruct.setKeepAlive(":\\ \t\r\n", 2);
  res.type("text/plain").end("begin\n");
});

app.get("/kept/bytes", (req, res) => {
  const instruct = hold(req, res, "news");
  instruct.setHoldStream();
  instruct.setKeepAlive(new Uint8Array([0x3b, 0x0a]), 2);
  res.type("text/plain").end("begin\n");
});

app.get("/poll", (req, res) => {
  hold(req, res, "news").setHoldLongPoll();
  res.json({ news: [] });
});

app.get("/poll/short", (req, res) => {
  hold(req, res, "news").setHoldLongPoll(1);
  res.json({ news: [] });
});

// The framework answers 304, which must not have most headers; so the library says it by another.
app.get("/poll/fresh", (req, res) => {
  hold(req, res, "news").setHoldLongPoll(1);
  res.set("ETag", '"1"').json({ news: [] });
});

// Numbers that a client has to get one by one: those that it lacks, then those that follow.
const numbers = [];
app.get("/numbers", (req, res) => {
  const told = /; last-id=(\d+)/.exec(req.headers["grip-last"])?.[1];
  const after = Number(told ?? req.query.after ?? numbers.length);
  // At most two at once, to have the hub come back for more.
  const next = numbers.slice(after, after + 2);
  const last = after + next.length;
  const instruct = hold(req, res, new Channel("numbers", String(last)));
  instruct.setNextLink(`/numbers?after=${last}`, 60);
  instruct.meta = { user: 'a "quoted" one' };
  if (last === numbers.length) {
    instruct.setHoldStream();
  }
  res.type("text/plain").end(next.map((number) => `${number}\n`).join(""));
});

app.post("/numbers", async (req, res) => {
  for (const { number, isLost } of req.body) {
    numbers.push(number);
    if (!isLost) {
      const id = numbers.length;
      const publisher = serveGrip.getPublisher();
      await publisher.publishHttpStream("numbers", `${number}\n`, String(id), String(id - 1));
    }
  }
  res.end("done\n");
});

app.post("/publish", async (req, res) => {
  const { channel, stream, response } = req.body;
  const formats = [];
  if (stream !== undefined) {
    formats.push(new HttpStreamFormat(stream));
  }
  if (response !== undefined) {
    const headers = { "X-By": "javascript" };
    formats.push(new HttpResponseFormat({ code: 201, reason: "Well", headers, body: response }));
  }
  await serveGrip.getPublisher().publishFormats(channel, formats);
  res.end("done\n");
});

app.post("/bytes", async (req, res) => {
  const content = new Uint8Array(req.body.bytes);
  await serveGrip.getPublisher().publishHttpStream("news", new HttpStreamFormat(content));
  await serveGrip.getPublisher().publishHttpResponse("news", new HttpResponseFormat({ body: content }));
  res.end("done\n");
});

app.post("/close", async (req, res) => {
  await serveGrip.getPublisher().publishHttpStream("news", new HttpStreamFormat(null, true));
  res.end("done\n");
});

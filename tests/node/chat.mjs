// A chat of Express and the unchanged @fanoutio/serve-grip: its WebSockets come over HTTP, and what
// one page says is published to all.

import { once } from "node:events";
import { createInterface } from "node:readline";
import { createServer } from "node:http";
import express from "express";
import { WebSocketMessageFormat } from "@fanoutio/grip";
import { ServeGrip } from "@fanoutio/serve-grip";

const app = express();
const server = createServer(app).listen(0, "127.0.0.1");
await once(server, "listening");
console.log(server.address().port);
const lines = createInterface({ input: process.stdin });
const [gripUrl] = await once(lines, "line");
lines.on("close", () => process.exit(0));

const prefix = "app-";
const serveGrip = new ServeGrip({ grip: gripUrl, prefix });
const publish = (channel, format) => serveGrip.getPublisher().publishFormats(channel, format);
app.use(serveGrip);
app.use(express.json());

// The middleware gives its prefix to what is published, and not to a WebSocket's subscriptions.
const subscribe = (socket, channel) => socket.subscribe(prefix + channel);

// What has been heard of whom, in its order.
const heard = [];

const open = (socket, name) => {
  socket.accept();
  // Comes back with every later request.
  socket.meta.name = name;
  subscribe(socket, "chat");
  subscribe(socket, `to-${name}`);
  socket.send(JSON.stringify({ welcome: name }));
};

// The next message; or nothing after an end, which is told.
const next = (socket, hear) => {
  let text;
  try {
    text = socket.recv();
  } catch {
    // The library has no other way to say it.
    hear("DISCONNECT");
    return null;
  }
  if (text === null) {
    hear(`CLOSE ${socket.closeCode}`);
    socket.close(socket.closeCode ?? 1000);
    return null;
  }
  hear(text);
  return text;
};

app.post("/chat", async (req, res) => {
  const socket = req.grip.wsContext;
  // The middleware does not wait for what its check finds, and so takes any signature.
  const { isSigned } = await serveGrip.getPublisher().validateGripSig(req.headers["grip-sig"]);
  if (!socket || !isSigned) {
    res.status(403).end("Not for you.\n");
    return;
  }
  if (socket.isOpening()) {
    open(socket, req.query.name);
  }
  const { id, meta } = socket;
  const hear = (what) => heard.push({ id, name: meta.name, what });
  if (socket.isOpening()) {
    hear("OPEN");
  }
  while (socket.canRecv()) {
    const text = next(socket, hear);
    if (text === null) {
      break;
    }
    const message = { from: meta.name, text };
    await publish("chat", new WebSocketMessageFormat(JSON.stringify(message)));
  }
  res.end();
});

app.get("/heard", (req, res) => {
  res.json(heard);
});

// Closes the WebSockets of a name.
app.post("/dismiss", async (req, res) => {
  const { name, code } = req.body;
  await publish(`to-${name}`, new WebSocketMessageFormat(null, true, code));
  res.end("done\n");
});

app.get("/", (req, res) => {
  res.type("html").end(page);
});

const page = `<!doctype html>
<meta charset="utf-8">
<title>Chat</title>
<ol id="messages"></ol>
<form id="form"><input id="text" autocomplete="off"><button>Say</button></form>
<script>
  const name = new URLSearchParams(location.search).get("name");
  const chat = { welcomes: 0, messages: [], closes: [], stays: true };
  const connect = () => {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/chat?name=" + name);
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.welcome) {
        chat.welcomes += 1;
        return;
      }
      chat.messages.push(message);
      const item = document.createElement("li");
      item.textContent = message.from + ": " + message.text;
      document.querySelector("#messages").append(item);
    };
    socket.onclose = ({ code, wasClean }) => {
      chat.closes.push({ code, wasClean });
      if (chat.stays) {
        connect();
      }
    };
    chat.say = (text) => socket.send(text);
    chat.leave = (code) => {
      chat.stays = false;
      socket.close(code);
    };
  };
  connect();
  document.querySelector("#form").onsubmit = (event) => {
    event.preventDefault();
    chat.say(document.querySelector("#text").value);
  };
</script>
`;

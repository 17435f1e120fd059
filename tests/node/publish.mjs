// Publishes with the original JavaScript library, exactly as its documentation shows.

import { HttpResponseFormat, HttpStreamFormat, Publisher } from "@fanoutio/grip";

const [controlUri, channel] = process.argv.slice(2);
const publisher = new Publisher({ control_uri: controlUri });

await publisher.publishHttpStream(channel, "javascript stream\n");
await publisher.publishHttpStream(channel, new HttpStreamFormat("javascript ids\n"), "4", "3");
await publisher.publishHttpResponse(
  channel,
  new HttpResponseFormat({
    code: 200,
    reason: "OK",
    headers: { "X-Library": "javascript" },
    body: "javascript response\n",
  }),
);

// An SQS-compatible server on 127.0.0.1: node sqs.mjs PACKAGE, where PACKAGE is the folder of fauxqs. It prints its port, then obeys lines on stdin:
// "down" closes the port and every connection, "up" opens the same port again with the queues as they were; each is answered with its own name, also when there is nothing to do. It ends
// with its stdin, so it does not outlive whoever started it.
import { AsyncLocalStorage } from "node:async_hooks";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const load = (file) => import(pathToFileURL(join(process.argv[2], "dist", file)).href);
const { buildApp } = await load("app.js");
const { SqsStore } = await load("sqs/sqsStore.js");

const sqsStore = new SqsStore();
sqsStore.host = ""; // queue URLs begin with the address that the client uses
const app = buildApp({ logger: false, stores: { sqsStore } });

// A long poll whose client has gone takes nothing: as it is, fauxqs would hide messages for a process that was killed seconds ago.
const request = new AsyncLocalStorage();
app.addHook("preHandler", (req, _reply, done) => request.run(req.raw, done));
const createQueue = sqsStore.createQueue.bind(sqsStore);
sqsStore.createQueue = (...args) => {
  const queue = createQueue(...args);
  const dequeue = queue.dequeue.bind(queue);
  queue.dequeue = (...args) => (request.getStore()?.socket.destroyed ? [] : dequeue(...args));
  return queue;
};
await app.listen({ host: "127.0.0.1", port: 0 });
const port = app.server.address().port;
console.log(port);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "down") {
    const closed = new Promise((done) => app.server.close(done));
    app.server.closeAllConnections();
    await closed;
  } else if (line === "up" && !app.server.listening) {
    await new Promise((done) => app.server.listen(port, "127.0.0.1", done));
  }
  console.log(line);
}
process.exit(0);

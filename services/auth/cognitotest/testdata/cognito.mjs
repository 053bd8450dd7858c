// A Cognito-compatible server on 127.0.0.1: node cognito.mjs PACKAGE, where PACKAGE is the folder of cognito-local. It keeps its pools below the folder it
// is started in. It prints its port, then obeys lines on stdin: "down" closes the port and every connection, "up" opens the same port again with the pools
// as they were; each is answered with its own name. It ends with its stdin, so it does not outlive whoever started it.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(join(process.argv[2], "package.json"));

// The issuer of its tokens holds the port, which it reads before it listens.
const first = createServer();
await new Promise((done) => first.listen(0, "127.0.0.1", done));
const port = first.address().port;
await new Promise((done) => first.close(done));
process.env.HOST = "127.0.0.1";
process.env.PORT = String(port);

const { createDefaultServer } = require("./lib/server");
const logger = require("pino")({ level: "silent" });
const server = await (await createDefaultServer(logger)).start();
console.log(port);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "down") {
    const closed = new Promise((done) => server.close(done));
    server.closeAllConnections();
    await closed;
  } else if (line === "up") {
    await new Promise((done) => server.listen(port, "127.0.0.1", done));
  }
  console.log(line);
}
process.exit(0);

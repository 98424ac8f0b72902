// Stands for Slack and for the portal's own HTTP hook: takes whatever is sent and writes each request as a line of JSON.
//
//   node receiver.mjs FILE [PORT]      prints the port; without PORT, or when it is taken, any free one
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const [file, port = "0"] = process.argv.slice(2);
const LONGEST = 1 << 20;

const server = createServer((request, response) => {
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (part) => {
    body = (body + part).slice(0, LONGEST);
  });
  request.on("end", () => {
    let text;
    try {
      ({ text } = JSON.parse(body));
    } catch {
      // A hook sends no JSON.
    }
    const line = { at: new Date().toISOString(), method: request.method, path: request.url, text };
    appendFileSync(file, `${JSON.stringify(line)}\n`);
    response.writeHead(200, { "content-type": "text/plain" }).end("ok");
  });
});
server.on("listening", () => console.log(server.address().port));
server.on("error", (error) => {
  if (error.code === "EADDRINUSE" && port !== "0") {
    server.listen(0, "127.0.0.1");
  } else {
    console.error(`receiver: ${error.message}`);
    process.exit(1);
  }
});
server.listen(Number(port), "127.0.0.1");

// ioredis as an application uses it, with its default settings: among them the ready check, which reads INFO.
// Arguments: host:port of the node to use, of another one, and the folder in which npm has installed it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [address, otherAddress, folder] = process.argv.slice(2);
const require = createRequire(`${resolve(folder)}/`);
const { Redis } = require("ioredis");
const { version } = require("ioredis/package.json");
const DEADLINE_MS = 10_000;

const at = (address) => {
  const cut = address.lastIndexOf(":");
  return { host: address.slice(0, cut), port: Number(address.slice(cut + 1)) };
};

async function until(what, probe) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await probe())) {
    assert.ok(Date.now() < end, `waited ${DEADLINE_MS} ms for: ${what}`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

async function connected(options) {
  const redis = new Redis({ ...at(address), ...options });
  // Without a listener it only writes them down, and goes on trying.
  redis.on("error", (error) => fail(error));
  await until("ready", () => redis.status === "ready");
  return redis;
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

async function strings(redis) {
  assert.equal(await redis.ping(), "PONG");
  await redis.del("io:a", "io:b", "io:lock");
  assert.equal(await redis.set("io:a", "1"), "OK");
  assert.equal(await redis.get("io:a"), "1");
  assert.equal(await redis.get("io:nothing"), null);
  assert.equal(await redis.set("io:lock", "me", "EX", 1000, "NX"), "OK");
  assert.equal(await redis.set("io:lock", "you", "EX", 1000, "NX"), null);
  assert.equal(await redis.incr("io:a"), 2);
  assert.equal(await redis.incrbyfloat("io:a", 0.5), "2.5");
  assert.equal(await redis.mset({ "io:b": "x", "io:c": "y" }), "OK");
  assert.deepEqual(await redis.mget("io:b", "io:nothing", "io:c"), ["x", null, "y"]);
  assert.equal(await redis.exists("io:b", "io:c"), 2);
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await redis.set(bytes, bytes);
  assert.deepEqual(await redis.getBuffer(bytes), bytes);
  await redis.del(bytes);
  await assert.rejects(redis.call("NOSUCHCOMMAND", "x"), /unknown command/);
  await redis.set("io:word", "word");
  await assert.rejects(redis.incr("io:word"), /not an integer/);
}

async function expiry(redis) {
  assert.equal(await redis.set("io:short", "1"), "OK");
  assert.equal(await redis.expire("io:short", 1000), 1);
  const ttl = await redis.ttl("io:short");
  assert.ok(ttl >= 990 && ttl <= 1000, `ttl ${ttl}`);
  assert.equal(await redis.persist("io:short"), 1);
  assert.equal(await redis.ttl("io:short"), -1);
  assert.equal(await redis.pexpire("io:short", 100), 1);
  await until("the key expires", async () => (await redis.get("io:short")) === null);
}

async function pipelines(redis) {
  const results = await redis.pipeline().set("io:p", 1).incr("io:p").get("io:p").incr("io:word").del("io:p").exec();
  assert.deepEqual(results.filter(([error]) => !error).map(([, result]) => result), ["OK", 2, "2", 1]);
  assert.match(results[3][0].message, /not an integer/);
  const multi = await redis.multi().set("io:m", 5).incrby("io:m", 2).get("io:m").exec();
  assert.deepEqual(multi, [[null, "OK"], [null, 7], [null, "7"]]);
  await redis.watch("io:m");
  const other = await connected({});
  await other.set("io:m", "changed");
  await other.quit();
  assert.equal(await redis.multi().set("io:m", "mine").exec(), null);
  await redis.multi({ pipeline: false });
  assert.equal(await redis.set("io:m", "dropped"), "QUEUED");
  assert.equal(await redis.discard(), "OK");
  const many = redis.pipeline();
  for (let number = 0; number < 2000; number++) many.set(`io:many:${number}`, number);
  assert.ok((await many.exec()).every(([error, result]) => error === null && result === "OK"));
}

async function scans(redis) {
  const found = new Set();
  for await (const keys of redis.scanStream({ match: "io:many:*", count: 100 })) for (const key of keys) found.add(key);
  assert.equal(found.size, 2000);
}

async function autoPipelining() {
  const redis = await connected({ enableAutoPipelining: true });
  const sums = await Promise.all(Array.from({ length: 500 }, () => redis.incr("io:auto")));
  assert.equal(new Set(sums).size, 500);
  const gets = await Promise.all(Array.from({ length: 500 }, (_, number) => redis.get(`io:many:${number}`)));
  assert.deepEqual(gets, Array.from({ length: 500 }, (_, number) => String(number)));
  await redis.quit();
}

async function across(redis) {
  const other = new Redis({ ...at(otherAddress), connectionName: "io-other" });
  other.on("error", (error) => fail(error));
  await redis.set("io:across", "from one", "EX", 1000);
  await until("the other node shows it", async () => (await other.get("io:across")) === "from one");
  assert.ok((await other.ttl("io:across")) >= 900);
  assert.equal(await other.client("GETNAME"), "io-other");
  await other.del("io:across");
  await until("this node shows that it is deleted", async () => (await redis.get("io:across")) === null);
  await other.quit();
}

const redis = await connected({});
assert.match(await redis.info(), /\r\nloading:0\r\n/);
await strings(redis);
await expiry(redis);
await pipelines(redis);
await scans(redis);
await autoPipelining();
await across(redis);
assert.equal(await redis.quit(), "OK");
console.log(`ok: ioredis ${version}: its ready check, strings, expiry, pipelines, MULTI, WATCH, scanStream, automatic pipelining`);

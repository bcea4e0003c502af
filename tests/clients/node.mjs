// Node's `fetch`.
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const [url, stop] = process.argv.slice(2);
const upload = "u".repeat(65536);
let last = 0;

function choose(n) {
  switch (n % 10) {
    case 5: case 6: return ["/slow/50", undefined, "slow 50"];
    case 7: return ["/stream", undefined, 65536];
    case 8: case 9: return [`/orders/${n}`, { method: "POST", body: upload }, `order ${n} of 65536`];
    default: return ["/", undefined, "quick"];
  }
}

async function ask(n) {
  const [path, options, wanted] = choose(n);
  for (;;) {
    try {
      const response = await fetch(`${url}${path}?id=${n}`, options);
      const body = await response.text();
      if (response.status !== 200) return `failed ${n} ${response.status}`;
      const whole = body === wanted || body.length === wanted;
      return whole ? `ok ${n}` : `failed ${n} not whole`;
    } catch (error) {
      const cause = error.cause ?? error;
      if (cause.code !== "ECONNREFUSED") return `failed ${n} ${cause.code} ${cause.message}`;
      await sleep(20);
    }
  }
}

async function worker() {
  while (!existsSync(stop)) {
    console.log(await ask(++last));
    await sleep(Math.random() * 20);
  }
}

await Promise.all(Array.from({ length: 16 }, worker));

// graphile-worker: 64 jobs at once; `local` adds what its documentation has under "Performance".

const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const { Pool } = require("undici");

const CONCURRENCY = 64;
const LOCAL = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const [, , action, url, variant] = process.argv;
const logger = new Logger(() => (level, message) => level === "error" && console.error(message));
const connectionString = `postgres:///${process.env.PGDATABASE}?host=${process.env.PGHOST}&user=${process.env.PGUSER}`;

async function install() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  await utils.release();
}

async function work() {
  const { origin, pathname } = new URL(url);
  const client = new Pool(origin, { connections: CONCURRENCY });
  const push = async (payload) => {
    const message = { "connector-post-status": { ...payload, "partner-identifier": "bench-partner-0001" } };
    const answer = await client.request({
      path: pathname,
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(message),
    });
    await answer.body.dump();
    if (answer.statusCode !== 200) throw new Error(`HTTP ${answer.statusCode}`);
  };
  const worker = { connectionString, concurrentJobs: CONCURRENCY, maxPoolSize: CONCURRENCY + 2, logger };
  const runner = await run({ preset: { worker: { ...worker, ...(variant === "local" ? LOCAL : {}) } }, taskList: { push } });
  await runner.promise;
}

(action === "install" ? install() : work()).catch((error) => {
  console.error(error);
  process.exit(1);
});

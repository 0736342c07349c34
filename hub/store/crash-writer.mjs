// The victim of crash.test.ts: writes as fast as it can until it is killed.
// Arguments: the compiled nedb.js, the data directory, a number that makes this round's values unlike all others'.
import { writeSync } from 'node:fs';

const [module, dir, round] = process.argv.slice(2);
const { NedbStore } = await import(module);
const store = new NedbStore(dir, { compactBytes: 100_000 });
await store.open();

/** One line to the parent; synchronous, so that what was said before the kill arrives. */
const say = (o) => writeSync(1, `${JSON.stringify(o)}\n`);
say({ opened: store.revision });

// Every writer has one key and one write under way, so the parent knows exactly what may have happened to the key.
const writer = async (key) => {
  for (let i = 0; ; i++) {
    const current = store.get(key);
    const remove = current && Math.random() < 0.2;
    const value = {
      id: `${round}/${i}`,
      pad: 'x'.repeat(Math.random() < 0.02 ? 200_000 : Math.random() * 2000),
    };
    say({ try: key, id: remove ? null : value.id });
    const entry = remove
      ? await store.delete(key, current.revision)
      : current
        ? await store.update(key, value, current.revision)
        : await store.create(key, value);
    say({
      ack: key,
      id: remove ? null : value.id,
      revision: remove ? undefined : entry.revision,
      at: store.revision,
    });
  }
};
for (let w = 0; w < 24; w++) writer(`/core/pods/default/w${w}`);

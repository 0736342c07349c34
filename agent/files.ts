/** File helpers of the agent: whole-file writes that a power cut cannot tear, and reads that survive a torn file. */
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Replaces the file as a whole, and is on disk when it resolves (fsync of file and directory). Not to be called again
 * for a file while a call for it is under way: what waits beside it has a fixed name, so that a process that is killed
 * on the way leaves nothing that the next write does not take along.
 */
export async function writeDurably(path: string, data: string, mode = 0o600): Promise<void> {
  const temporary = `${path}.tmp`;
  await mkdir(dirname(path), { recursive: true });
  try {
    const f = await open(temporary, 'w', mode);
    try {
      await f.writeFile(data);
      await f.sync();
    } finally {
      await f.close();
    }
    await rename(temporary, path);
  } catch (e) {
    await rm(temporary, { force: true });
    throw e;
  }
  const d = await open(dirname(path), 'r');
  try {
    await d.sync();
  } finally {
    await d.close();
  }
}

/**
 * The parsed file; undefined when there is none. A file that is no JSON (torn by a power cut) is renamed to
 * `<path>.corrupt`, told through `setAside`, and counts as absent.
 */
export async function readJson(
  path: string,
  setAside: (path: string, why: string) => void,
): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw e;
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (e) {
    await rename(path, `${path}.corrupt`);
    setAside(`${path}.corrupt`, (e as Error).message);
    return undefined;
  }
}

/** A conversation at the joining door: questions and answers over the two topics of a random client id. */
import { randomBytes } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import type { Frame } from '../../api/wire/codec.js';
import { openMqtt } from '../../api/wire/mqtt.js';
import { joinTopic } from '../../api/wire/topics.js';

const ANSWER_MS = 20_000;
const MAX_INBOX = 8;

export interface Door {
  /** Sends the frames and resolves with the next message of one of the types; rejects when none comes in time. */
  ask(frames: readonly Uint8Array[], answers: readonly number[]): Promise<Frame>;
  close(): Promise<void>;
}

/** `read` makes a message of a payload, or throws on what is not the hub's. Rejects when the broker lets nobody in. */
export async function openDoor(
  socket: TLSSocket,
  read: (payload: Uint8Array) => Frame | undefined,
  timeoutMs = ANSWER_MS,
): Promise<Door> {
  const id = `j-${randomBytes(16).toString('hex')}`;
  const inbox: Frame[] = [];
  let wake = () => {};
  let closed: string | undefined;
  const mqtt = await openMqtt(socket, {
    clientId: id,
    keepalive: 60,
    subscribe: [joinTopic(id, 'd')],
    onMessage(_topic, payload) {
      try {
        const frame = read(payload);
        if (frame && inbox.length < MAX_INBOX) inbox.push(frame);
      } catch {
        // Not the hub's: as if it had never come.
      }
      wake();
    },
    onClose(reason) {
      closed = reason;
      wake();
    },
  });
  return {
    async ask(frames, answers) {
      for (const f of frames) await mqtt.publish(joinTopic(id, 'u'), f);
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        wake();
      }, timeoutMs);
      try {
        for (;;) {
          const m = inbox.shift();
          if (m && answers.includes(m.type)) return m;
          if (m) continue;
          if (closed) throw new Error(`the hub ended the connection: ${closed}`);
          if (late) throw new Error('the broker is there but the hub does not answer; is it running?');
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      } finally {
        clearTimeout(timer);
      }
    },
    close: () => mqtt.close(),
  };
}

/**
 * MQTT topics and limits. Every topic of a node lies below `cox/v1/n/<CN of its certificate>/`, so that a broker can
 * hold a node to its own topics with one pattern (`%u` in mosquitto). See docs/wire.md.
 */
export const NODE_CN_PREFIX = 'system:node:';
export const ROOT = 'cox/v1';

/** `d`: control, hub to node. `u`: control, node to hub. `s/d`, `s/u`: streams. */
export type Channel = 'd' | 'u' | 's/d' | 's/u';

export const nodeTopic = (node: string, channel: Channel): string =>
  `${ROOT}/n/${NODE_CN_PREFIX}${node}/${channel}`;

/** What an agent subscribes to. */
export const nodeSubscriptions = (node: string): string[] => [nodeTopic(node, 'd'), nodeTopic(node, 's/d')];

/** `id`: the joining client's MQTT client id. */
export const joinTopic = (id: string, channel: 'd' | 'u'): string => `${ROOT}/j/${id}/${channel}`;

/** What the hub subscribes to. */
export const HUB_SUBSCRIPTIONS = [`${ROOT}/n/+/u`, `${ROOT}/n/+/s/u`, `${ROOT}/j/+/u`] as const;

/** A joining client's id: unguessable, since its topics are open to whoever knows it. */
export const JOIN_ID = /^j-[0-9a-f]{32}$/;

export type ParsedTopic = { node: string; channel: Channel } | { join: string; channel: 'd' | 'u' };

/** The inverse of {@link nodeTopic} and {@link joinTopic}; undefined for anything else. */
export function parseTopic(topic: string): ParsedTopic | undefined {
  const [cox, v1, room, who, ...rest] = topic.split('/');
  if (`${cox}/${v1}` !== ROOT || !who) return undefined;
  const channel = rest.join('/');
  if (room === 'n' && who.startsWith(NODE_CN_PREFIX) && /^(s\/)?[du]$/.test(channel))
    return { node: who.slice(NODE_CN_PREFIX.length), channel: channel as Channel };
  if (room === 'j' && JOIN_ID.test(who) && /^[du]$/.test(channel))
    return { join: who, channel: channel as 'd' | 'u' };
  return undefined;
}

/** Bytes. Both sides enforce each of them on what they receive. */
export const LIMITS = {
  /** One MQTT payload; larger messages travel in fragments. */
  frame: 128 * 1024,
  /** One message as it travels, all fragments together. */
  message: 4 * 1024 * 1024,
  /** The same, unpacked. */
  inflated: 16 * 1024 * 1024,
  /** JSON of one delta or report batch, beyond its first item. */
  batch: 192 * 1024,
  /** One joining message. */
  join: 16 * 1024,
  /** Unconfirmed bytes of one stream in flight. */
  window: 64 * 1024,
  /** Data of one stream frame. */
  streamFrame: 8 * 1024,
  /** Open streams of one node: each port that a browser opens through a port-forward is one. */
  streams: 64,
} as const;

/**
 * Seconds between an idle agent's MQTT PINGREQs. A ping and its answer cost 48 bytes of TLS, 256 with TCP/IP headers:
 * at 75 s an idle node stays at 2.3 KB/h (12.3 KB/h on the cable), and a dead one is noticed after 113 s.
 */
export const KEEPALIVE_SECONDS = 75;

/** What the hub needs of a broker, embedded or external. Delivery may fail in every way: the protocol above copes. */
export interface BusHandlers {
  /** A message on one of the hub's topics (`HUB_SUBSCRIPTIONS`). Must not throw. */
  message(topic: string, payload: Uint8Array): void;
  /** The hub is connected and subscribed: at once for an embedded broker, after every reconnect for an external one. */
  up(): void;
  down(): void;
  /** Why whoever has this certificate's name and key (`keyId`) may not come in; undefined when they may. */
  refusal?(cn: string, key: string): string | undefined;
}

export interface BusAddresses {
  /** `host:port` for nodes that have a certificate. */
  node: string[];
  /** `host:port` for devices that join; with the embedded broker the same. */
  join: string[];
}

export interface Bus {
  /** Where others reach it, when it knows; an embedded one does not know the machine's names. */
  addresses?(): BusAddresses;
  /** Resolves when messages can flow, or when an external broker is being dialled; rejects when it never can. */
  start(handlers: BusHandlers): Promise<void>;
  /** Cuts the connections of those that `refusal` no longer lets in, where this side can: an embedded broker. */
  recheck?(): void;
  /** The hub's server certificate is another: new connections get it. An external broker has its own. */
  renewed?(): void;
  stop(): Promise<void>;
  /**
   * QoS 0. Resolves once the message has been handed to the network, which is the only back-pressure there is; a
   * message for somebody who is not there is dropped. Never rejects.
   */
  publish(topic: string, payload: Uint8Array): Promise<void>;
}

/** What the hub needs of a broker, embedded or external. Delivery may fail in every way: the protocol above copes. */
export interface BusHandlers {
  /** A message on one of the hub's topics (`HUB_SUBSCRIPTIONS`). Must not throw. */
  message(topic: string, payload: Uint8Array): void;
  /** The hub is connected and subscribed: at once for an embedded broker, after every reconnect for an external one. */
  up(): void;
  down(): void;
}

export interface Bus {
  /** Resolves when messages can flow, or when an external broker is being dialled; rejects when it never can. */
  start(handlers: BusHandlers): Promise<void>;
  stop(): Promise<void>;
  /**
   * QoS 0. Resolves once the message has been handed to the network, which is the only back-pressure there is; a
   * message for somebody who is not there is dropped. Never rejects.
   */
  publish(topic: string, payload: Uint8Array): Promise<void>;
}

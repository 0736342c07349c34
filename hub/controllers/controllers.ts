import type { Pod } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import {
  cronJobs,
  daemonSets,
  horizontalPodAutoscalers,
  jobs,
  persistentVolumeClaims,
  persistentVolumes,
  podDisruptionBudgets,
  pods,
  replicationControllers,
  statefulSets,
  validatingAdmissionPolicies,
} from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import type { Authorizer } from '../auth/attributes.js';
import type { Client, KindTable, QuotaUsage } from '../client.js';
import { EventRecorder } from '../events.js';
import type { Informers } from '../informer.js';
import { WorkQueue } from '../queue.js';
import { accountTokensLoop, type TokenForSecret } from './accounttokens.js';
import { aggregationLoop } from './aggregation.js';
import { bootstrapTokensLoop } from './bootstraptokens.js';
import { certificatesLoop, type SignRequest } from './csr.js';
import { deploymentLoop } from './deployment.js';
import { endpointsLoop } from './endpoints.js';
import { eventTtlLoop } from './eventttl.js';
import { evictionLoop } from './eviction.js';
import { flowControlLoop } from './flowcontrol.js';
import { garbageLoop } from './garbage.js';
import { type ApiAddress, kubernetesServiceLoop } from './kubernetes-service.js';
import { type Cause, type Loading, lazily } from './lazy.js';
import type { Context, LoopFactory, Reconcile } from './loop.js';
import { namespaceLoop } from './namespace.js';
import { nodeStatusLoop } from './nodestatus.js';
import { nodeTaintsLoop } from './nodetaints.js';
import { podGcLoop } from './podgc.js';
import { quotaLoop } from './quota.js';
import { replicaSetLoop } from './replicaset.js';
import { serviceAccountLoop } from './serviceaccount.js';

/** Keys that each loop works on at once. */
const CONCURRENCY = 4;

export interface ControllersOptions {
  client: Client;
  informers: Informers;
  /** The kinds that the API serves: for the garbage collector and for emptying namespaces. */
  kinds: KindTable;
  clock: Clock;
  log: Log;
  /** The API's CA, for the ConfigMap `kube-root-ca.crt` of every namespace. */
  caPem: string;
  /** Signs what CertificateSigningRequests ask for; without it they wait for a signer of somebody else's. */
  certificates?: { authorizer: Authorizer; sign: SignRequest; prepare?: () => void };
  /** Makes tokens for Secrets of ServiceAccounts; without it these stay empty. */
  tokenForSecret?: TokenForSecret;
  /** What quotas come to; without it nobody writes their status. */
  quota?: QuotaUsage;
  /** Where the API is to be reached: for the Service `kubernetes`, which is not made without it. */
  api?: ApiAddress;
  /** Keeps the FlowSchemas that every cluster has: where requests come from outside. */
  flowControl?: boolean;
  /** Ended pods that are kept, in the whole cluster. Default 500. */
  keepEndedPods?: number;
}

type Lazy = readonly [causes: readonly Cause[], load: () => Promise<LoopFactory>];

const TRACKING = 'batch.kubernetes.io/job-tracking';

/** Loops that a hub only needs once there is an object for them. */
const LAZY: Readonly<Record<string, Lazy>> = {
  daemonset: [[daemonSets as never], async () => (await import('./daemonset.js')).daemonSetLoop],
  // A pod may outlive its Job and wait to be let go of.
  job: [
    [jobs as never, [pods as never, (p: Pod) => p.metadata?.finalizers?.includes(TRACKING) ?? false]],
    async () => (await import('./job.js')).jobLoop,
  ],
  cronjob: [[cronJobs as never], async () => (await import('./cronjob.js')).cronJobLoop],
  disruption: [[podDisruptionBudgets as never], async () => (await import('./disruption.js')).disruptionLoop],
  hpa: [[horizontalPodAutoscalers as never], async () => (await import('./hpa.js')).hpaLoop],
  replicationcontroller: [
    [replicationControllers as never],
    async () => (await import('./replicaset.js')).replicationControllerLoop,
  ],
  jobttl: [[jobs as never], async () => (await import('./job.js')).jobTtlLoop],
  statefulset: [[statefulSets as never], async () => (await import('./statefulset.js')).statefulSetLoop],
  volumes: [
    [persistentVolumeClaims as never, persistentVolumes as never],
    async () => (await import('./volumes.js')).volumesLoop,
  ],
};

/** All control loops of the hub. */
export class Controllers {
  readonly #queues: WorkQueue[] = [];
  readonly #recorders: EventRecorder[] = [];
  readonly #loading: Loading = { count: 0 };

  constructor(private readonly o: ControllersOptions) {
    const loops: Record<string, LoopFactory> = {
      deployment: deploymentLoop,
      replicaset: replicaSetLoop,
      // Before the namespaces': it lets informers of kinds go that both of them use.
      garbage: garbageLoop(o.kinds),
      namespace: namespaceLoop(o.kinds),
      serviceaccount: serviceAccountLoop(o.caPem),
      nodestatus: nodeStatusLoop,
      nodetaints: nodeTaintsLoop,
      eviction: evictionLoop,
      podgc: podGcLoop(o.keepEndedPods ?? 500),
      eventttl: eventTtlLoop,
      aggregation: aggregationLoop,
      bootstraptokens: bootstrapTokensLoop,
      endpoints: endpointsLoop,
      ...(o.api ? { 'kubernetes-service': kubernetesServiceLoop(o.api) } : {}),
      ...(o.certificates
        ? {
            certificates: certificatesLoop(
              o.certificates.authorizer,
              o.certificates.sign,
              o.certificates.prepare,
            ),
          }
        : {}),
    };
    if (o.tokenForSecret) loops['accounttokens'] = accountTokensLoop(o.caPem, o.tokenForSecret);
    if (o.flowControl) loops['flowcontrol'] = flowControlLoop;
    if (o.quota) loops['quota'] = quotaLoop(o.quota);
    for (const [name, [kinds, load]] of Object.entries(LAZY))
      loops[name] = lazily(kinds, load, this.#loading);
    loops['policystatus'] = lazily(
      [validatingAdmissionPolicies as never],
      async () => (await import('./policystatus.js')).policyStatusLoop(o.kinds),
      this.#loading,
    );
    const { client, informers, clock, log } = o;
    const ctx: Context = {
      client,
      informers,
      clock,
      log,
      kinds: o.kinds,
      recorder: (component) => {
        const recorder = new EventRecorder(client, { component }, clock, log);
        this.#recorders.push(recorder);
        return recorder;
      },
    };
    for (const [name, make] of Object.entries(loops)) {
      let reconcile: Reconcile;
      const queue = new WorkQueue(name, (key) => reconcile(key), clock, log, { concurrency: CONCURRENCY });
      reconcile = make(ctx, queue);
      this.#queues.push(queue);
    }
  }

  /** Resolves when every loop has seen the world once; they work from then on. */
  async start(): Promise<void> {
    await this.o.informers.start();
    for (const q of this.#queues) q.start();
  }

  async stop(): Promise<void> {
    await Promise.all(this.#queues.map((q) => q.stop()));
    for (const r of this.#recorders) r.stop();
  }

  /** The code of a loop is being loaded, which takes time of no clock that is handed in. */
  get loading(): boolean {
    return this.#loading.count > 0;
  }

  /** No loop has anything to do now. */
  get idle(): boolean {
    return !this.loading && this.#queues.every((q) => q.idle) && this.#recorders.every((r) => r.idle);
  }
}

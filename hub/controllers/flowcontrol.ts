import type { FlowSchema, PriorityLevelConfiguration } from 'kubernetes-types/flowcontrol/v1.js';
import { rfc3339 } from '../../api/clock.js';
import {
  AUTOUPDATE_SPEC,
  mandatoryLevels,
  mandatorySchemas,
  suggestedLevels,
  suggestedSchemas,
} from '../../api/kinds/flowcontrol-defaults.js';
import { flowSchemas, priorityLevelConfigurations } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import type { Frozen } from '../client.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

type Configuration = FlowSchema | PriorityLevelConfiguration;

/** As Go's strconv.ParseBool. */
const BOOLEANS: Readonly<Record<string, boolean>> = {
  ...Object.fromEntries(['1', 't', 'T', 'TRUE', 'true', 'True'].map((t) => [t, true])),
  ...Object.fromEntries(['0', 'f', 'F', 'FALSE', 'false', 'False'].map((t) => [t, false])),
};

const autoUpdate = (o: Frozen<Configuration>): boolean | undefined =>
  BOOLEANS[o.metadata?.annotations?.[AUTOUPDATE_SPEC] ?? ''];

/** Administrators may choose how many seats are kept for exempt requests. */
function isAsWanted(spec: Frozen<Configuration['spec']>, wanted: Configuration['spec']): boolean {
  if (!spec || !wanted || !('exempt' in wanted)) return deepEqual(spec, wanted);
  return 'exempt' in spec && deepEqual({ ...spec, exempt: wanted.exempt }, wanted);
}

/** What to change in a default object so that it is as it should be; undefined: nothing. */
export function revision(o: Frozen<Configuration>, wanted: Configuration, mandatory: boolean) {
  // Without a word from the administrator a spec that nobody changed is the hub's.
  const ours = mandatory || (autoUpdate(o) ?? o.metadata?.generation === 1);
  const annotate = autoUpdate(o) !== ours;
  const replace = ours && !isAsWanted(o.spec as Frozen<Configuration['spec']>, wanted.spec);
  if (!annotate && !replace) return undefined;
  return {
    metadata: {
      resourceVersion: o.metadata!.resourceVersion,
      annotations: { ...o.metadata!.annotations, [AUTOUPDATE_SPEC]: String(ours) },
    },
    spec: replace ? wanted.spec : o.spec,
  };
}

const byName = <T extends Configuration>(mandatory: readonly T[], suggested: readonly T[]) =>
  new Map(
    [
      ...suggested.map((wanted) => ({ wanted, mandatory: false })),
      ...mandatory.map((wanted) => ({ wanted, mandatory: true })),
    ].map((d) => [d.wanted.metadata!.name!, d]),
  );

/**
 * Keeps the FlowSchemas and PriorityLevelConfigurations that every cluster has, and tells in each schema's condition
 * `Dangling` whether its level is there.
 */
export function flowControlLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, clock, informers } = ctx;
  const schemas = informers.of(flowSchemas).onChange((name) => keys.add(`schema/${name}`));
  const levels = informers.of(priorityLevelConfigurations).onChange((name, now, before) => {
    keys.add(`level/${name}`);
    if (now && before) return;
    for (const s of schemas.values())
      if (s.spec?.priorityLevelConfiguration.name === name) keys.add(`schema/${s.metadata!.name!}`);
  });
  const defaultLevels = byName(mandatoryLevels, suggestedLevels);
  const defaultSchemas = byName(mandatorySchemas, suggestedSchemas);
  for (const name of defaultLevels.keys()) keys.add(`level/${name}`);
  for (const name of defaultSchemas.keys()) keys.add(`schema/${name}`);

  /** Makes a default object, or puts it right. Gives false when it was changed. */
  const keep = async <T extends Configuration>(
    kind: Kind<T>,
    there: Frozen<T> | undefined,
    wanted: { wanted: T; mandatory: boolean } | undefined,
  ): Promise<boolean> => {
    if (!wanted) {
      // One of an earlier release that nobody took over.
      if (!there || autoUpdate(there) !== true) return true;
      await ifThere(client.delete(kind, { name: there.metadata!.name! }));
      return false;
    }
    if (!there) {
      try {
        await client.create(kind, structuredClone(wanted.wanted));
      } catch (e) {
        if (!isApiError(e, 'AlreadyExists')) throw e;
      }
      return false;
    }
    const change = revision(there, wanted.wanted, wanted.mandatory);
    if (!change) return true;
    const { metadata, spec } = structuredClone(change);
    await ifThere(
      client.update(kind, {
        ...structuredClone(there),
        metadata: { ...there.metadata, ...metadata },
        spec,
      } as T),
    );
    return false;
  };

  const tellDangling = async (o: Frozen<FlowSchema>): Promise<void> => {
    const name = o.spec!.priorityLevelConfiguration.name;
    const found = levels.get(name) !== undefined;
    const wanted = {
      type: 'Dangling',
      status: found ? 'False' : 'True',
      reason: found ? 'Found' : 'NotFound',
      message: `This FlowSchema references the PriorityLevelConfiguration object named ${JSON.stringify(name)} ${found ? 'and it exists' : 'but there is no such object'}`,
    };
    const conditions = o.status?.conditions ?? [];
    const told = conditions.find((c) => c.type === wanted.type);
    if (told?.status === wanted.status && told.reason === wanted.reason && told.message === wanted.message)
      return;
    const others = conditions.filter((c) => c !== told);
    const now = { ...wanted, lastTransitionTime: rfc3339(clock.now()) };
    const { name: schema, resourceVersion } = o.metadata!;
    const patch = { metadata: { resourceVersion }, status: { conditions: [...others, now] } };
    await ifThere(client.patch(flowSchemas, { name: schema! }, patch, 'status'));
  };

  return async (key) => {
    const [what, name] = key.split('/') as [string, string];
    if (what === 'level')
      return void (await keep(priorityLevelConfigurations, levels.get(name), defaultLevels.get(name)));
    const schema = schemas.get(name);
    if (await keep(flowSchemas, schema, defaultSchemas.get(name))) if (schema) await tellDangling(schema);
  };
}

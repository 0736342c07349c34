/** Tells, in the status of a ValidatingAdmissionPolicy, which expressions do not fit the kinds that it is about. */
import type {
  ExpressionWarning,
  ValidatingAdmissionPolicy,
} from 'kubernetes-types/admissionregistration/v1.js';
import { Language, loadCel, type ObjectTypes } from '../../api/cel/cel.js';
import type { Rule } from '../../api/kinds/admission-rules.js';
import { policyExpressions } from '../../api/kinds/admissionpolicies.js';
import { validatingAdmissionPolicies } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { resolve, type Schema, schemaOf } from '../../api/kinds/schema.js';
import { deepEqual } from '../../api/meta/json.js';
import type { KindTable } from '../client.js';
import { type Context, ifThere, type Keys, type LoopFactory, type Reconcile } from './loop.js';

/** As in Kubernetes; more kinds are not looked at. */
const MAX_KINDS = 10;
/** Parts of a schema beyond these may be anything. */
const MAX_TYPES = 500;
const SCALARS: Readonly<Record<string, string>> = {
  integer: 'int',
  number: 'double',
  boolean: 'bool',
  string: 'string',
};

/** Types of an object by name, and the name of its own. */
function typesOf(root: Schema, prefix: string): { types: ObjectTypes; name: string } {
  const types: Record<string, Record<string, string>> = {};
  let count = 0;
  const typeOf = (s: Schema): string => {
    const { schema, name } = resolve(s);
    if (schema['x-kubernetes-preserve-unknown-fields'] || schema.format === 'int-or-string') return 'dyn';
    if (schema.type === 'array') return `list<${schema.items ? typeOf(schema.items) : 'dyn'}>`;
    const scalar = SCALARS[schema.type ?? ''];
    if (scalar) return schema.format === 'date-time' ? 'google.protobuf.Timestamp' : scalar;
    if (schema.additionalProperties) return `map<string, ${typeOf(schema.additionalProperties)}>`;
    if (!schema.properties) return 'dyn';
    const id = `${prefix}${name ? `.${name.replace(/[^\w.]/g, '_')}` : count}`;
    if (types[id]) return id;
    if (count++ >= MAX_TYPES) return 'dyn';
    const fields: Record<string, string> = {};
    types[id] = fields;
    for (const [key, p] of Object.entries(schema.properties)) fields[key] = typeOf(p);
    return id;
  };
  return { name: typeOf(root), types };
}

const wild = (list: readonly string[] | undefined): boolean =>
  !list?.length || list.some((x) => /[*/]/.test(x));

/** The kinds that a policy names one by one. */
function kindsOf(o: ValidatingAdmissionPolicy, kinds: readonly Kind[]): Kind[] {
  const rules = (o.spec?.matchConstraints?.resourceRules ?? []) as readonly Rule[];
  const named = kinds.filter((k) =>
    rules.some(
      (r) =>
        !wild(r.apiGroups) &&
        !wild(r.apiVersions) &&
        !wild(r.resources) &&
        r.apiGroups!.includes(k.group) &&
        r.apiVersions!.includes(k.version) &&
        r.resources!.includes(k.plural),
    ),
  );
  return named.slice(0, MAX_KINDS);
}

/** What is wrong with each expression for each kind, in Kubernetes' form (policy/validating typechecking.go). */
export async function typeWarnings(
  o: ValidatingAdmissionPolicy,
  kinds: readonly Kind[],
): Promise<ExpressionWarning[]> {
  await loadCel();
  const found = new Map<string, string>();
  const wanted = o.spec?.paramKind;
  const params = wanted && kinds.find((k) => k.kind === wanted.kind && apiVersionOf(k) === wanted.apiVersion);
  for (const kind of kindsOf(o, kinds)) {
    const object = typesOf(schemaOf(kind), 'object');
    const param = params && typesOf(schemaOf(params), 'params');
    const types = new Language({}, { ...object.types, ...param?.types });
    const names = { types, object: object.name, ...(param ? { paramsType: param.name } : {}) };
    for (const { field, expression, language } of policyExpressions(o, names)) {
      if (!field.startsWith('spec.validations')) continue;
      const c = language.compile(expression);
      if ('wrong' in c)
        found.set(
          field,
          `${found.get(field) ?? ''}${kind.group ? `${kind.group}/` : ''}${kind.version}, Kind=${kind.kind}: ${c.wrong}\n`,
        );
    }
    // Schemas are large: others have their turn between them.
    await new Promise((done) => setImmediate(done));
  }
  return [...found].map(([fieldRef, warning]) => ({ fieldRef, warning }));
}

export const policyStatusLoop =
  (table: KindTable): LoopFactory =>
  (ctx: Context, keys: Keys): Reconcile => {
    const all = ctx.informers.of(validatingAdmissionPolicies);
    all.onChange(() => {
      for (const o of all.values()) keys.add(o.metadata!.name!);
    });
    return async (name) => {
      const o = all.get(name) as ValidatingAdmissionPolicy | undefined;
      const { generation, deletionTimestamp } = o?.metadata ?? {};
      if (!o || deletionTimestamp || o.status?.observedGeneration === generation) return;
      const warnings = await typeWarnings(o, table.kinds);
      const status = {
        observedGeneration: generation!,
        typeChecking: warnings.length ? { expressionWarnings: warnings } : {},
      };
      if (deepEqual(status, o.status)) return;
      await ifThere(ctx.client.patch(validatingAdmissionPolicies, { name }, { status }, 'status'));
    };
  };

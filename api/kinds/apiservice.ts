/** APIService (apiregistration.k8s.io/v1): who serves a group version, this API or another server behind a Service. */
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { dns1035Label, dns1123Subdomain } from '../meta/names.js';
import type { KubeObject } from '../meta/object.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

export interface APIServiceCondition {
  type: string;
  status: string;
  lastTransitionTime?: string;
  reason?: string;
  message?: string;
}

export interface APIService extends KubeObject {
  spec: {
    /** Absent: this API serves the group version itself. */
    service?: { namespace: string; name: string; port?: number };
    group?: string;
    version: string;
    insecureSkipTLSVerify?: boolean;
    /** PEM in base64. */
    caBundle?: string;
    groupPriorityMinimum: number;
    versionPriority: number;
  };
  status?: { conditions?: APIServiceCondition[] };
}

/** How an APIService that this API made of itself is kept: `onstart`, or `true` for always. */
export const AUTOMANAGED = 'kube-aggregator.kubernetes.io/automanaged';

export const availableCondition = (o: {
  readonly status?: { readonly conditions?: readonly Readonly<APIServiceCondition>[] };
}): Readonly<APIServiceCondition> | undefined => o.status?.conditions?.find((c) => c.type === 'Available');

function validate(o: APIService): FieldError[] {
  const errors: FieldError[] = [];
  const { spec } = o;
  const { group = '', version = '', service, caBundle, insecureSkipTLSVerify: insecure } = spec ?? {};
  const name = `${version}.${group}`;
  if (o.metadata?.name !== name)
    errors.push(
      invalid(
        'metadata.name',
        o.metadata?.name,
        `must be \`spec.version+"."+spec.group\`: ${JSON.stringify(name)}`,
      ),
    );
  if (!group && version !== 'v1')
    errors.push(required('spec.group', 'only v1 may have an empty group and it better be legacy kube'));
  if (group) for (const e of dns1123Subdomain(group)) errors.push(invalid('spec.group', group, e));
  for (const e of dns1035Label(version)) errors.push(invalid('spec.version', version, e));
  const within = (field: 'groupPriorityMinimum' | 'versionPriority', max: number) => {
    const n = spec?.[field] ?? 0;
    if (n <= 0 || n > max) errors.push(invalid(`spec.${field}`, n, `must be positive and less than ${max}`));
  };
  within('groupPriorityMinimum', 20_000);
  within('versionPriority', 1000);
  if (!service) {
    if (caBundle) {
      const bytes = Buffer.from(caBundle, 'base64').length;
      errors.push(invalid('spec.caBundle', `${bytes} bytes`, 'local APIServices may not have a caBundle'));
    }
    if (insecure)
      errors.push(
        invalid(
          'spec.insecureSkipTLSVerify',
          insecure,
          'local APIServices may not have insecureSkipTLSVerify',
        ),
      );
    return errors;
  }
  if (!service.namespace) errors.push(required('spec.service.namespace'));
  if (!service.name) errors.push(required('spec.service.name'));
  const port = service.port ?? 0;
  if (port < 1 || port > 65535)
    errors.push(
      invalid('spec.service.port', port, 'port is not valid: must be between 1 and 65535, inclusive'),
    );
  if (insecure && caBundle)
    errors.push(invalid('spec.insecureSkipTLSVerify', insecure, 'may not be true if caBundle is present'));
  return errors;
}

const STATUSES = ['True', 'False', 'Unknown'];

export const apiServices: Kind<APIService> = {
  group: 'apiregistration.k8s.io',
  version: 'v1',
  kind: 'APIService',
  plural: 'apiservices',
  keptByStatus: 'metadata',
  singular: 'apiservice',
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService',
  columns: [
    nameColumn as Kind<APIService>['columns'][number],
    column(
      'Service',
      'string',
      'The reference to the service that hosts this API endpoint.',
      ({ spec: { service } }) => (service ? `${service.namespace}/${service.name}` : 'Local'),
    ),
    column('Available', 'string', 'Whether this service is available.', (o) => {
      const { status = 'Unknown', reason } = availableCondition(o) ?? {};
      return status !== 'True' && reason ? `${status} (${reason})` : status;
    }),
    ageColumn as Kind<APIService>['columns'][number],
  ],
  status: true,
  selectable: {},
  // What else a name must be follows from the spec.
  validName: () => [],
  setDefaults(o) {
    if (o.spec?.service) o.spec.service.port ??= 443;
  },
  prepareForCreate(o) {
    delete o.status;
  },
  validate,
  validateStatus: (o) =>
    (o.status?.conditions ?? []).flatMap((c, i) =>
      STATUSES.includes(c.status)
        ? []
        : [notSupported(`status.conditions[${i}].status`, c.status, ['False', 'True', 'Unknown'])],
    ),
};

import type { Event } from 'kubernetes-types/core/v1.js';
import { since } from '../meta/duration.js';
import { invalid, required } from '../meta/field-errors.js';
import { pathSegmentName } from '../meta/names.js';
import { column } from './columns.js';
import type { Kind } from './kind.js';

const time = (...candidates: (string | null | undefined)[]): string | undefined =>
  candidates.find((t) => t) ?? undefined;

const firstSeen = (o: Event): string | undefined => time(o.firstTimestamp, o.eventTime);
const lastSeen = (o: Event): string | undefined =>
  time(o.series?.lastObservedTime, o.lastTimestamp, o.firstTimestamp, o.eventTime);

const involved = (o: Event): string =>
  `${(o.involvedObject?.kind ?? '').toLowerCase()}/${o.involvedObject?.name ?? ''}`;

const source = (o: Event): string => {
  const component = o.source?.component || o.reportingComponent || '';
  return o.source?.host ? `${component}, ${o.source.host}` : component;
};

export const events: Kind<Event> = {
  group: '',
  version: 'v1',
  kind: 'Event',
  plural: 'events',
  singular: 'event',
  shortNames: ['ev'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.Event',
  columns: [
    column('Last Seen', 'string', 'When it was last seen.', (o, now) => since(lastSeen(o), now)),
    column('Type', 'string', 'Normal or Warning.', (o) => o.type ?? ''),
    column('Reason', 'string', 'One word for why.', (o) => o.reason ?? ''),
    column('Object', 'string', 'The object that it is about.', involved),
    column('Subobject', 'string', 'The part of the object.', (o) => o.involvedObject?.fieldPath ?? '', 1),
    column('Source', 'string', 'Who tells.', source, 1),
    column('Message', 'string', 'What happened, for people.', (o) => (o.message ?? '').trim()),
    column('First Seen', 'string', 'When it was first seen.', (o, now) => since(firstSeen(o), now), 1),
    column('Count', 'string', 'How often it was seen.', (o) => o.series?.count ?? (o.count || 1), 1),
    {
      ...column<Event>('Name', 'string', 'The name of the event.', (o) => o.metadata?.name ?? '', 1),
      format: 'name',
    },
  ],
  status: false,
  selectable: {
    'involvedObject.kind': (o) => o.involvedObject?.kind ?? '',
    'involvedObject.namespace': (o) => o.involvedObject?.namespace ?? '',
    'involvedObject.name': (o) => o.involvedObject?.name ?? '',
    'involvedObject.uid': (o) => o.involvedObject?.uid ?? '',
    'involvedObject.apiVersion': (o) => o.involvedObject?.apiVersion ?? '',
    'involvedObject.resourceVersion': (o) => o.involvedObject?.resourceVersion ?? '',
    'involvedObject.fieldPath': (o) => o.involvedObject?.fieldPath ?? '',
    reason: (o) => o.reason ?? '',
    reportingComponent: (o) => o.reportingComponent ?? '',
    source: (o) => o.source?.component || o.reportingComponent || '',
    type: (o) => o.type ?? '',
  },
  validName: pathSegmentName,
  validate(o) {
    if (!o.involvedObject) return [required('involvedObject')];
    // Events of cluster-scoped objects live in the default namespace.
    const home = o.involvedObject.namespace || 'default';
    return home === o.metadata?.namespace
      ? []
      : [
          invalid(
            'involvedObject.namespace',
            o.involvedObject.namespace ?? '',
            'does not match event.namespace',
          ),
        ];
  },
};

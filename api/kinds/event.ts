import type { Event } from 'kubernetes-types/core/v1.js';
import type { Event as NewEvent } from 'kubernetes-types/events/v1.js';
import { since } from '../meta/duration.js';
import { invalid, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { pathSegmentName, qualifiedName } from '../meta/names.js';
import { column } from './columns.js';
import type { FieldError, Kind } from './kind.js';

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

const MAX_TEXT = 128;
const MAX_NOTE = 1024;

/** Events that say `eventTime` are of the newer sort and must say the rest as well. */
function validateEvent(o: Event): FieldError[] {
  const { namespace = '' } = o.metadata ?? {};
  const about = o.involvedObject?.namespace ?? '';
  const elsewhere = invalid('involvedObject.namespace', about, 'does not match event.namespace');
  if (!o.eventTime) return (about || 'default') === namespace ? [] : [elsewhere];
  const errors: FieldError[] = [];
  if (!about && namespace !== 'default' && namespace !== 'kube-system') errors.push(elsewhere);
  const reporter = o.reportingComponent ?? '';
  if (!reporter) errors.push(required('reportingComponent'));
  errors.push(...qualifiedName(reporter).map((e) => invalid('reportingComponent', reporter, e)));
  for (const k of ['reportingInstance', 'action', 'reason'] as const) {
    if (!o[k]) errors.push(required(k));
    if ((o[k]?.length ?? 0) > MAX_TEXT)
      errors.push(invalid(k, '', `can have at most ${MAX_TEXT} characters`));
  }
  if ((o.message?.length ?? 0) > MAX_NOTE)
    errors.push(invalid('message', '', `can have at most ${MAX_NOTE} characters`));
  return errors;
}

function validateSeries({ series }: Event): FieldError[] {
  if (!series) return [];
  return [
    ...((series.count ?? 0) < 2 ? [invalid('series.count', '', 'should be at least 2')] : []),
    ...(series.lastObservedTime ? [] : [required('series.lastObservedTime')]),
  ];
}

/** What a creator through events.k8s.io must keep to besides. */
function validateNew(o: Event): FieldError[] {
  const unset = (field: string, value: unknown) => (value ? [invalid(field, '', 'needs to be unset')] : []);
  return [
    ...validateSeries(o),
    ...(o.eventTime ? [] : [required('eventTime')]),
    ...(o.type === 'Normal' || o.type === 'Warning'
      ? []
      : [invalid('type', '', `has invalid value: ${o.type ?? ''}`)]),
    ...unset('firstTimestamp', o.firstTimestamp),
    ...unset('lastTimestamp', o.lastTimestamp),
    ...unset('count', o.count),
    ...unset('source', o.source?.component || o.source?.host),
  ];
}

/** Of an Event only its series changes. */
const FIXED = [
  'involvedObject reason message source firstTimestamp lastTimestamp count type eventTime action related',
  'reportingComponent reportingInstance',
].flatMap((line) => line.split(' ')) as (keyof Event & string)[];

const validateChange = (o: Event, old: Event): FieldError[] => [
  ...(deepEqual(o.series, old.series) ? [] : validateSeries(o)),
  ...FIXED.filter((k) => !deepEqual(o[k] ?? undefined, old[k] ?? undefined)).map((k) =>
    invalid(k === 'reportingComponent' ? 'reportingController' : k, o[k], 'field is immutable'),
  ),
];

const dropUndefined = (o: object): object =>
  Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined));

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
  createOnUpdate: true,
  validate: validateEvent,
};

const core = (o: NewEvent): Event => {
  const { regarding, note, deprecatedSource, deprecatedFirstTimestamp, deprecatedLastTimestamp, ...rest } = o;
  const { deprecatedCount, reportingController, ...same } = rest;
  return dropUndefined({
    ...same,
    involvedObject: regarding,
    message: note,
    source: deprecatedSource,
    firstTimestamp: deprecatedFirstTimestamp,
    lastTimestamp: deprecatedLastTimestamp,
    count: deprecatedCount,
    reportingComponent: reportingController,
  }) as unknown as Event;
};

const modern = (o: Event): NewEvent => {
  const { involvedObject, message, source: from, firstTimestamp, lastTimestamp, ...rest } = o;
  const { count, reportingComponent, ...same } = rest;
  return dropUndefined({
    ...same,
    regarding: involvedObject,
    note: message,
    deprecatedSource: from,
    deprecatedFirstTimestamp: firstTimestamp,
    deprecatedLastTimestamp: lastTimestamp,
    deprecatedCount: count,
    reportingController: reportingComponent,
  }) as unknown as NewEvent;
};

const REGARDING = ['kind', 'namespace', 'name', 'uid', 'apiVersion', 'resourceVersion', 'fieldPath'] as const;

/** Core's Events under their newer names (`events.k8s.io/v1`), with stricter rules for who writes through it. */
export const newEvents: Kind<NewEvent> = {
  group: 'events.k8s.io',
  version: 'v1',
  kind: 'Event',
  plural: 'events',
  singular: 'event',
  shortNames: ['ev'],
  categories: [],
  namespaced: true,
  status: false,
  schema: 'io.k8s.api.events.v1.Event',
  columns: events.columns.map((c) => ({ ...c, value: (o: NewEvent, now: number) => c.value(core(o), now) })),
  selectable: {
    reason: (o) => o.reason ?? '',
    type: (o) => o.type ?? '',
    reportingController: (o) => o.reportingController ?? '',
    ...Object.fromEntries(
      REGARDING.map((k) => [`regarding.${k}`, (o: NewEvent): string => o.regarding?.[k] ?? '']),
    ),
  },
  validate: (o, old) => (old ? validateChange(core(o), core(old)) : validateNew(core(o))),
  view: {
    of: events,
    show: ({ apiVersion: _a, kind: _k, ...o }: Event) => modern(o as Event),
    keep: ({ apiVersion: _a, kind: _k, ...o }: NewEvent) => core(o as NewEvent),
  },
};

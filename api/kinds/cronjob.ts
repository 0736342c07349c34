import type { CronJob, CronJobSpec } from 'kubernetes-types/batch/v1.js';
import { isTimeZone, parseCron } from '../meta/cron.js';
import { since } from '../meta/duration.js';
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { formatSelector, requirementsOf } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import { defaultJobTemplate } from './job.js';
import { validateJobSpec } from './job-validation.js';
import type { FieldError, Kind } from './kind.js';
import { atLeastZero } from './pod-template.js';

const POLICIES = ['Allow', 'Forbid', 'Replace'];
/** Of a Job's name, 11 are for the time. */
const MAX_NAME = 52;

function validateSchedule(spec: CronJobSpec, old: CronJob | undefined, at: string): FieldError[] {
  const { schedule } = spec;
  if (!schedule) return [required(at)];
  const errors: FieldError[] = [];
  const zone = /TZ/.test(schedule);
  try {
    parseCron(schedule.replace(/^(?:CRON_)?TZ=\S+\s+/, ''));
  } catch (e) {
    errors.push(invalid(at, schedule, (e as Error).message));
  }
  if (zone && !old?.spec?.schedule.includes('TZ'))
    errors.push(invalid(at, schedule, 'cannot use TZ or CRON_TZ in schedule, use timeZone field instead'));
  else if (zone && spec.timeZone !== undefined)
    errors.push(invalid(at, schedule, 'cannot use both timeZone field and TZ or CRON_TZ in schedule'));
  return errors;
}

function validateTimeZone(zone: string | undefined, at: string): FieldError[] {
  if (zone === undefined) return [];
  if (zone === '') return [invalid(at, zone, 'timeZone must be nil or non-empty string')];
  const wellFormed = zone
    .split('/')
    .every((p) => /^[A-Za-z._0-9+-]{1,14}$/.test(p) && !p.startsWith('-') && p !== '.' && p !== '..');
  if (!wellFormed) return [invalid(at, zone, `unknown time zone ${zone}`)];
  if (zone.toLowerCase() === 'local')
    return [
      invalid(
        at,
        zone,
        'timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones',
      ),
    ];
  return isTimeZone(zone) ? [] : [invalid(at, zone, `unknown time zone ${zone}`)];
}

function validate(o: CronJob, old?: CronJob): FieldError[] {
  const spec = o.spec!;
  const policy = spec.concurrencyPolicy;
  const template = spec.jobTemplate.spec!;
  const at = 'spec.jobTemplate.spec';
  const errors = [
    ...validateSchedule(spec, old, 'spec.schedule'),
    ...atLeastZero(spec.startingDeadlineSeconds, 'spec.startingDeadlineSeconds'),
    ...(old && old.spec?.timeZone === spec.timeZone ? [] : validateTimeZone(spec.timeZone, 'spec.timeZone')),
    ...(POLICIES.includes(policy!) ? [] : [notSupported('spec.concurrencyPolicy', policy, POLICIES)]),
    ...validateJobSpec(template, at),
    ...atLeastZero(spec.successfulJobsHistoryLimit, 'spec.successfulJobsHistoryLimit'),
    ...atLeastZero(spec.failedJobsHistoryLimit, 'spec.failedJobsHistoryLimit'),
  ];
  if (template.selector)
    errors.push(invalid(`${at}.selector`, template.selector, '`selector` will be auto-generated'));
  if (template.manualSelector)
    errors.push(notSupported(`${at}.manualSelector`, template.manualSelector, ['nil', 'false']));
  if (!old && (o.metadata?.name?.length ?? 0) > MAX_NAME)
    errors.push(invalid('metadata.name', o.metadata?.name, `must be no more than ${MAX_NAME} characters`));
  return errors;
}

const containersOf = (o: CronJob) => o.spec?.jobTemplate.spec?.template.spec?.containers ?? [];

export const cronJobs: Kind<CronJob> = {
  group: 'batch',
  version: 'v1',
  kind: 'CronJob',
  plural: 'cronjobs',
  singular: 'cronjob',
  shortNames: ['cj'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.batch.v1.CronJob',
  columns: [
    nameColumn,
    column('Schedule', 'string', 'When it runs, as in cron.', (o) => o.spec?.schedule ?? ''),
    column('Timezone', 'string', 'The time zone of the schedule.', (o) => o.spec?.timeZone ?? '<none>'),
    column('Suspend', 'boolean', 'Nothing is started any more.', (o) => (o.spec?.suspend ? 'True' : 'False')),
    column('Active', 'integer', 'Jobs that run now.', (o) => o.status?.active?.length ?? 0),
    column('Last Schedule', 'string', 'When a Job was started last.', (o, now) =>
      o.status?.lastScheduleTime ? since(o.status.lastScheduleTime, now) : '<none>',
    ),
    ageColumn,
    column(
      'Containers',
      'string',
      'Names of each container in the template.',
      (o) =>
        containersOf(o)
          .map((c) => c.name)
          .join(','),
      1,
    ),
    column(
      'Images',
      'string',
      'Images referenced by each container in the template.',
      (o) =>
        containersOf(o)
          .map((c) => c.image ?? '')
          .join(','),
      1,
    ),
    column(
      'Selector',
      'string',
      'Label selector for pods.',
      (o) => {
        const selector = o.spec?.jobTemplate.spec?.selector;
        return selector ? formatSelector(requirementsOf(selector)) : '<none>';
      },
      1,
    ),
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {} as CronJobSpec;
    const { spec } = o;
    spec.jobTemplate ??= {};
    (spec.jobTemplate as { spec?: object }).spec ??= {};
    defaultJobTemplate(spec.jobTemplate.spec!);
    spec.concurrencyPolicy ||= 'Allow';
    spec.suspend ??= false;
    spec.successfulJobsHistoryLimit ??= 3;
    spec.failedJobsHistoryLimit ??= 1;
  },
  prepareForCreate(o) {
    (o as { status: object }).status = {};
  },
  validate,
};

/** The process that issuer.ts starts: answers each job with its certificate, and ends with its parent. */
import { issue, type Job } from './issue.js';

process.on('message', ({ id, job }: { id: number; job: Job }) => {
  issue(job).then(
    (cert) => process.send!({ id, cert }),
    (e: Error) => process.send!({ id, error: e.message }),
  );
});
process.on('disconnect', () => process.exit(0));

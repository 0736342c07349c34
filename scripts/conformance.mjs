// `npm run conformance [-- flags]`: Kubernetes' own end-to-end tests against a hub and two agents. docs/conformance.md.
import { runCompiled } from './compiled.mjs';

runCompiled('conformance', 'test/conformance/main.js');

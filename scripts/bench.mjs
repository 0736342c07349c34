// `npm run bench [-- flags]`: builds the program and the benchmarks, then measures. `npm run bench -- --help` says what.
import { run, runCompiled } from './compiled.mjs';

run('scripts/examples.mjs', 'mixed-runtimes');
runCompiled('bench', 'bench/main.js');

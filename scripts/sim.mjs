// `npm run sim -- --seeds N --start S`: compiles the simulator and runs it. docs/simulator.md tells more.
import { runCompiled } from './compiled.mjs';

runCompiled('sim', 'test/sim/main.js');

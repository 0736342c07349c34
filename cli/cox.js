#!/usr/bin/env node
import { main } from '../dist/cli/main.js';

const code = await main(process.argv.slice(2));
// A command that failed on its way up may have left handles that would keep the process alive for ever.
if (code !== 0) process.exit(code);

#!/usr/bin/env node
import { main } from '../dist/cli/main.js';

// Whatever a command has left open (a failed start, a watched standard input) must not keep the process.
process.exit(await main(process.argv.slice(2)));

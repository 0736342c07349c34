/** `cox`: dispatches to one command. */
export async function main(argv: string[]): Promise<number> {
  process.stderr.write(`cox: unknown command "${argv[0] ?? ''}"\n`);
  return 2;
}

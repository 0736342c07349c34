/** The part of the WebAssembly JavaScript interface in use; TypeScript has it only in its DOM library. */
declare namespace WebAssembly {
  interface ExportDescriptor {
    kind: 'function' | 'global' | 'memory' | 'table' | 'tag';
    name: string;
  }
  interface ImportDescriptor extends ExportDescriptor {
    module: string;
  }
  class Module {
    constructor(bytes: Uint8Array);
    static exports(module: Module): ExportDescriptor[];
    static imports(module: Module): ImportDescriptor[];
  }
  class Instance {
    constructor(module: Module, imports?: Record<string, Record<string, unknown>>);
    readonly exports: Record<string, unknown>;
  }
  class Memory {
    readonly buffer: ArrayBuffer;
  }
  class RuntimeError extends Error {}
  class CompileError extends Error {}
  class LinkError extends Error {}
  function validate(bytes: Uint8Array): boolean;
}

/** NeDB ships no types for its (de)serialiser. */
declare module '@seald-io/nedb/lib/model.js' {
  const model: {
    /** One line of a data file, without the line end. Throws on field names with dots or dollars. */
    serialize(doc: object): string;
    deserialize(line: string): unknown;
  };
  export default model;
}

/** One object in the versions of its kind, for those who own fields by the names that they have there. */
import type { Kind } from '../../api/kinds/kind.js';
import type { Schema } from '../../api/kinds/schema.js';
import type { AnyObject } from '../../api/meta/object.js';
import { Unconverted } from './unconverted.js';

/** In what other versions have it that differ in form. */
export interface Forms {
  /** The object in that version, frozen in form; undefined when there is no such version. Throws Unconverted. */
  of(o: AnyObject, apiVersion: string): { object: AnyObject; schema: Schema } | undefined;
}

/** Of one write, which may come by the same object many times; undefined where versions do not differ in form. */
export function formsOf({ custom }: Kind): Forms | undefined {
  const conversion = custom?.conversion;
  if (!conversion) return undefined;
  const known = new Map<string, AnyObject>();
  return {
    of(o, apiVersion) {
      const schema = conversion.schemas.get(apiVersion);
      if (!schema) return undefined;
      if (o.apiVersion === apiVersion) return { object: o, schema };
      // By what it says: a step that begins anew makes an equal object.
      const key = `${apiVersion} ${JSON.stringify(o)}`;
      const object = known.get(key);
      if (object) return { object, schema };
      throw new Unconverted(
        async ([wanted]) => {
          const [converted] = await conversion.convert([wanted!], apiVersion);
          known.set(key, converted!);
        },
        [o],
      );
    },
  };
}

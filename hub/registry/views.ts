/** Kinds that are another form of the objects of another kind: both names lead to the same stored objects. */
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { deepFreeze } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';

/** The kind in whose form the objects are stored. */
export const storedKind = (kind: Kind): Kind => kind.view?.of ?? kind;

/** What is shown lives as long as somebody holds it, so that a list does not keep every object twice. */
const known = new WeakMap<Kind, WeakMap<object, WeakRef<AnyObject>>>();

/** A stored object as `kind` shows it; the same one again while anybody has it. Frozen, as what it is given. */
export function shown(kind: Kind, stored: AnyObject | Frozen<AnyObject>): AnyObject {
  if (!kind.view) return stored as AnyObject;
  let all = known.get(kind);
  if (!all) {
    all = new WeakMap();
    known.set(kind, all);
  }
  const there = all.get(stored)?.deref();
  if (there) return there;
  const o = deepFreeze({
    kind: kind.kind,
    apiVersion: apiVersionOf(kind),
    ...kind.view.show(stored),
  }) as AnyObject;
  all.set(stored, new WeakRef(o));
  return o;
}

/** What is stored of `o`, or of a part of one that somebody applies, in place of `stored`. */
export function kept(kind: Kind, o: AnyObject, stored?: AnyObject): AnyObject {
  if (!kind.view) return o;
  const { of } = kind.view;
  return { kind: of.kind, apiVersion: apiVersionOf(of), ...kind.view.keep(o, stored) };
}

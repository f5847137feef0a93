import { Fragment, type ReactNode } from "react";

/** Stands for the name while a message is made; of Unicode's private use area, so that no message has it. */
const HOLE = "\uE000";

/** A message with a name in it. The name is isolated: its letters do not change the order of the message's own words. */
export function Sentence({ of, name }: { of: (name: string) => string; name: string }): ReactNode {
  return of(HOLE)
    .split(HOLE)
    .map((part, index) => (
      <Fragment key={index}>
        {index > 0 && <bdi>{name}</bdi>}
        {part}
      </Fragment>
    ));
}

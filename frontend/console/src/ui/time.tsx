import { exactly, when } from "../words.js";
import { useNow } from "./hooks.js";

/** A moment as people say it, and exactly where the pointer rests. */
export function Moment({ at }: { at: string }) {
  const now = useNow();
  return (
    <time dateTime={at} title={exactly(at)}>
      {when(at, now)}
    </time>
  );
}

import { useFaults } from "./controls.js";
import { inForce, NO_FAULTS } from "./faults.js";

/** Says on every page that something is made to go wrong, or a newcomer would think it does. */
export function FaultsBanner() {
  const { faults, change } = useFaults();
  const names = faults ? inForce(faults) : [];
  if (names.length === 0) return null;
  const clear = () => change(NO_FAULTS);
  return (
    <section className="faults" aria-label="Faults in force">
      <span>Sandbox: {names.join(" · ")}</span>
      <button className="button bare compact" onClick={clear}>
        Clear
      </button>
    </section>
  );
}

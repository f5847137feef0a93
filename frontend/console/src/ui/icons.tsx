import type { ReactNode } from "react";

function glyph(shape: ReactNode) {
  return function Glyph() {
    return (
      <svg className="glyph" viewBox="0 0 20 20" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
        {shape}
      </svg>
    );
  };
}

export const Search = glyph(
  <>
    <circle cx="9" cy="9" r="5.5" />
    <path d="m13.2 13.2 3.8 3.8" />
  </>,
);
export const Sun = glyph(
  <>
    <circle cx="10" cy="10" r="3.4" />
    <path d="M10 2.2v1.6M10 16.2v1.6M2.2 10h1.6M16.2 10h1.6M4.5 4.5l1.1 1.1M14.4 14.4l1.1 1.1M15.5 4.5l-1.1 1.1M5.6 14.4l-1.1 1.1" />
  </>,
);
export const Moon = glyph(<path d="M16.8 12.1A7 7 0 0 1 7.9 3.2a7 7 0 1 0 8.9 8.9Z" />);
export const Down = glyph(<path d="m5 8 5 5 5-5" />);
export const Close = glyph(<path d="m5 5 10 10M15 5 5 15" />);
export const Plus = glyph(<path d="M10 4v12M4 10h12" />);
export const Pen = glyph(<path d="m4 16 .8-3.4 8-8a1.8 1.8 0 0 1 2.6 2.6l-8 8L4 16Z" />);
export const Flask = glyph(<path d="M8 2.8v5L3.9 15a1.6 1.6 0 0 0 1.4 2.4h9.4a1.6 1.6 0 0 0 1.4-2.4L12 7.8v-5M6.6 2.8h6.8M6 12.5h8" />);
export const Away = glyph(<path d="M8 5H5v10h10v-3M11 4h5v5M16 4l-7 7" />);

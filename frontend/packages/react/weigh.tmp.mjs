import { gzipSync, brotliCompressSync } from "node:zlib";
import { rolldown } from "rolldown";
const R="../react/src/", C="../client/src/index.ts";
const cases={client:`export { createClient, connectFlow } from "@patchbay/client"`,button:`export { PatchbayProvider, ConnectButton } from "./src/index.ts"`,all:`export * from "./src/index.ts"`};
for (const [n,code] of Object.entries(cases)){
  const entry={name:"e",resolveId:(id)=>id==="entry"?id:id==="@patchbay/client"?new URL("../client/src/index.ts",import.meta.url).pathname:null,load:(id)=>id==="entry"?{code,moduleType:"js"}:null};
  const external=["react","react/jsx-runtime","@tanstack/react-query"];
  const b=await rolldown({input:"entry",external,plugins:[entry],cwd:import.meta.dirname,resolve:{extensionAlias:{".js":[".ts",".tsx",".js"]}}});
  const {output}=await b.generate({format:"esm",minify:true});
  const c=output[0].code; console.log(n,"raw",c.length,"gz",gzipSync(c).length,"gz9",gzipSync(c,{level:9}).length,"br",brotliCompressSync(c).length);
  if(process.argv[2]===n) { const b2=await b.generate({format:"esm",minify:{mangle:true,compress:true}});
    const rows=[]; for(const [id,m] of Object.entries(output[0].modules)){ rows.push([id.split("/").slice(-2).join("/"),m.renderedLength, m.code?gzipSync(m.code).length:0]);}
    rows.sort((a,b)=>b[1]-a[1]); console.table(rows); if(process.argv[3]) (await import("node:fs")).writeFileSync(process.argv[3],c);}
}

/**
 * Certificates for tests, made at test time by the JDK's keytool, which is where a local broker is.
 *
 * Guards that no key is kept in the repository. Each is self-signed and its own authority.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface SelfSigned {
  keystore: { path: string; password: string };
  /** PEM of the certificate: who trusts it trusts the server. */
  certificate: string;
}

/** A key and certificate for 127.0.0.1 and localhost, valid for a day, in `folder` under `name`. */
export async function selfSigned(folder: string, name: string): Promise<SelfSigned> {
  const path = join(folder, `${name}.p12`);
  const password = randomBytes(12).toString('hex');
  const store = ['-keystore', path, '-storepass', password, '-alias', name];
  await run('keytool', [
    '-genkeypair',
    ...store,
    ...['-storetype', 'PKCS12', '-keyalg', 'EC', '-groupname', 'secp256r1', '-validity', '1'],
    ...['-dname', `CN=${name}`, '-ext', 'san=ip:127.0.0.1,dns:localhost'],
  ]);
  const { stdout } = await run('keytool', ['-exportcert', '-rfc', ...store]);
  return { keystore: { path, password }, certificate: stdout };
}

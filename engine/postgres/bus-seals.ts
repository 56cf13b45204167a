/**
 * Messages sealed for one other process: none but that one can read them, none but this one can have written them.
 *
 * Guards what takes the right to write to the bus from who can only read the database, or the network: each process
 * makes a pair of keys when it starts, and only the public one stands in the database. A pair of processes shares a
 * secret by theirs (X25519, HKDF-SHA256); it seals by AES-256-GCM, with a counter that never comes twice for a key.
 */
import {
  createCipheriv,
  createDecipheriv,
  createPublicKey,
  createSecretKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto';

const CIPHER = 'aes-256-gcm';
const SENDER_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** What a sealed text is longer than the text. */
export const SEAL_BYTES = SENDER_BYTES + NONCE_BYTES + TAG_BYTES;
/** Part of the keys: a process that speaks otherwise is not understood, and not misunderstood. */
const CONTEXT = 'sagax bus 1';

/** The keys between this process and another one, whose public key they go by. */
export interface Seal {
  readonly sealing: KeyObject;
  readonly opening: KeyObject;
}

export class BusSeals {
  /** 32 bytes, base64url. */
  readonly publicKey: string;
  readonly #publicBytes: Buffer;
  readonly #privateKey: KeyObject;
  /** Of this process, for all keys. */
  #count = 0n;

  constructor() {
    const { publicKey, privateKey } = generateKeyPairSync('x25519');
    this.#privateKey = privateKey;
    this.publicKey = publicKey.export({ format: 'jwk' }).x as string;
    this.#publicBytes = Buffer.from(this.publicKey, 'base64url');
  }

  /** @param publicKey of the other process @returns null when it is no key */
  with(publicKey: string): Seal | null {
    try {
      const other = createPublicKey({
        key: { kty: 'OKP', crv: 'X25519', x: publicKey },
        format: 'jwk',
      });
      const secret = diffieHellman({ privateKey: this.#privateKey, publicKey: other });
      return {
        sealing: derive(secret, this.publicKey, publicKey),
        opening: derive(secret, publicKey, this.publicKey),
      };
    } catch {
      return null;
    }
  }

  seal({ sealing }: Seal, text: string): Buffer {
    const nonce = Buffer.alloc(NONCE_BYTES);
    nonce.writeBigUInt64BE(this.#count++);
    const cipher = createCipheriv(CIPHER, sealing, nonce);
    const body = [cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()];
    return Buffer.concat([this.#publicBytes, nonce, ...body]);
  }
}

/** @returns the public key of who says that it is from him; null when it is too short for a sealed text */
export function senderOf(sealed: Buffer): string | null {
  return sealed.length < SEAL_BYTES ? null : sealed.toString('base64url', 0, SENDER_BYTES);
}

/** @returns null when it was not sealed by that process for this one, or was changed on the way */
export function open({ opening }: Seal, sealed: Buffer): string | null {
  const nonce = sealed.subarray(SENDER_BYTES, SENDER_BYTES + NONCE_BYTES);
  const decipher = createDecipheriv(CIPHER, opening, nonce, { authTagLength: TAG_BYTES });
  decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
  try {
    const body = decipher.update(sealed.subarray(SENDER_BYTES + NONCE_BYTES, -TAG_BYTES));
    return Buffer.concat([body, decipher.final()]).toString('utf8');
  } catch {
    return null;
  }
}

/** As an object: a key in bytes costs three times as much at each use. */
function derive(secret: Buffer, from: string, to: string): KeyObject {
  const bytes = hkdfSync('sha256', secret, '', `${CONTEXT} ${from} ${to}`, 32);
  return createSecretKey(Buffer.from(bytes));
}

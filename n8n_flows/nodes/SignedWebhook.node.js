'use strict';
// Starts a flow with a delivery that is signed as Standard Webhooks 1.0 says (https://www.standardwebhooks.com). It checks before
// n8n makes an execution: whoever cannot sign costs nothing and leaves nothing. n8n's own Webhook node can compare a header, and it
// would have to check a signature inside the flow, with a key that is text; ours are 24 to 64 random bytes.
const { createHmac, timingSafeEqual } = require('node:crypto');

const TOLERANCE_S = 300;
const MAX_SIGNATURES = 16;
const MAX_DROPPED_BYTES = 64 * 2 ** 20;
const ID = /^[A-Za-z0-9_.:-]{1,256}$/;
const TIMESTAMP = /^[0-9]{1,15}$/;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

function keyOf(secret) {
  const text = secret.replace(/^whsec_/, '');
  const key = Buffer.from(text, 'base64');
  if (!BASE64.test(text) || key.length < 24 || key.length > 64) {
    throw new Error('a webhook secret is base64 of 24 to 64 bytes');
  }
  return key;
}

function isSame(a, b) {
  return a.length === b.length && timingSafeEqual(a, b);
}

// The reason why a delivery is refused, or nothing.
function refusal(headers, body, credentials, nowS) {
  if (credentials.token && !isSame(Buffer.from(String(headers['x-everloop-token'] ?? '')), Buffer.from(credentials.token))) {
    return 'no token';
  }
  const { 'webhook-id': id = '', 'webhook-timestamp': timestamp = '', 'webhook-signature': signatures = '' } = headers;
  if (!ID.test(id) || !TIMESTAMP.test(timestamp)) return 'webhook-id or webhook-timestamp is missing or malformed';
  if (Math.abs(nowS - Number(timestamp)) > TOLERANCE_S) return `webhook-timestamp is more than ${TOLERANCE_S} s away`;
  const given = signatures
    .split(' ', MAX_SIGNATURES)
    .filter((entry) => entry.startsWith('v1,') && BASE64.test(entry.slice(3)))
    .map((entry) => Buffer.from(entry.slice(3), 'base64'));
  const isSigned = [credentials.secret, credentials.oldSecret].filter(Boolean).some((secret) => {
    const mac = createHmac('sha256', keyOf(secret)).update(`${id}.${timestamp}.`).update(body).digest();
    return given.some((signature) => isSame(mac, signature));
  });
  return isSigned ? undefined : 'no signature matches';
}

// What is left of a request is dropped unread: a sender that is still sending would not come to reading the answer.
function dropped(request) {
  return new Promise((resolve) => {
    let left = MAX_DROPPED_BYTES;
    for (const event of ['end', 'close', 'error']) request.on(event, resolve);
    if (request.readableEnded || request.destroyed) return resolve();
    request.unpipe();
    request.on('data', (chunk) => {
      left -= chunk.length;
      if (left < 0) resolve();
    });
    request.resume();
  });
}

class SignedWebhook {
  description = {
    displayName: 'Signed Webhook',
    name: 'signedWebhook',
    icon: 'fa:signature',
    group: ['trigger'],
    version: 1,
    description: 'Starts the flow with a JSON delivery that is signed as Standard Webhooks says',
    defaults: { name: 'Signed Webhook' },
    inputs: [],
    outputs: ['main'],
    credentials: [{ name: 'signedWebhookSecret', required: true }],
    webhooks: [
      { name: 'default', httpMethod: 'POST', responseMode: 'responseNode', path: '={{$parameter["path"]}}', isFullPath: true },
    ],
    properties: [
      { displayName: 'Path', name: 'path', type: 'string', default: '', required: true },
      // By this n8n leaves the body to the node. Else it reads and parses it before anybody looks at the signature, and answers 500
      // to one that is too long.
      { displayName: 'Options', name: 'options', type: 'hidden', default: { binaryData: true } },
    ],
  };

  async webhook() {
    const request = this.getRequestObject();
    const answer = (status, error) => {
      this.logger.warn(`Refused a delivery to ${this.getNodeParameter('path')} with ${status}: ${error}`);
      this.getResponseObject().status(status).json({ error });
      return { noWebhookResponse: true };
    };
    try {
      if (!request.rawBody) await request.readRawBody();
    } catch (error) {
      await dropped(request);
      if (error.type !== 'entity.too.large') return answer(400, 'the body cannot be read');
      return answer(413, `the body is longer than ${error.limit} bytes`);
    }
    const body = request.rawBody ?? Buffer.alloc(0);
    const headers = this.getHeaderData();
    const refused = refusal(headers, body, await this.getCredentials('signedWebhookSecret'), Date.now() / 1000);
    if (refused) return answer(401, refused);
    let data;
    try {
      data = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
    } catch {
      return answer(400, 'the body is not JSON');
    }
    if (data === null || typeof data !== 'object' || Array.isArray(data)) return answer(400, 'the body is not a JSON object');
    return { workflowData: [[{ json: { id: headers['webhook-id'], body: data } }]] };
  }
}

module.exports = { SignedWebhook };

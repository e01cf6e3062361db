'use strict';

class SignedWebhookSecret {
  name = 'signedWebhookSecret';
  displayName = 'Signed Webhook Secret';
  properties = [
    { displayName: 'Secret', name: 'secret', type: 'string', typeOptions: { password: true }, default: '', required: true },
    // While a secret is being replaced, deliveries signed with the old one are still taken.
    { displayName: 'Old Secret', name: 'oldSecret', type: 'string', typeOptions: { password: true }, default: '' },
    // If set, deliveries must also carry it in the header x-everloop-token.
    { displayName: 'Token', name: 'token', type: 'string', typeOptions: { password: true }, default: '' },
  ];
}

module.exports = { SignedWebhookSecret };
